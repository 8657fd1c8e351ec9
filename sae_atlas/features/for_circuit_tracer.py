"""What latents fire on and promote, as the page of circuit-tracer shows it: a JSON file for every alive latent."""

import json
from pathlib import Path

from sae_atlas.features.bands import TOP
from sae_atlas.features.decoder import Decoder
from sae_atlas.io.files import atomic
from sae_atlas.io.tables import read_table

BAND_NAMES = {TOP: "highest activations", "q75": "around the upper quartile", "q50": "around the median"}
BAND_NAMES |= {"q25": "around the lower quartile"}


def write_features(
    contexts: str | Path, features: str | Path, base_model: str | Path, folder: str | Path, layer: int
) -> None:
    """Write folder/<number>.json of a layer's alive latents; the number is the Cantor pairing of layer and latent.

    contexts, features: the layer's tables (features.top_contexts); base_model: its provenance. Keys as in circuit-tracer's
    feature_models.Model; the histogram, which it wants in even bins, and quantiles are left out.
    """
    about = read_table(features)
    about, table = about[about.alive], read_table(contexts, may_be_empty=True)
    decode = Decoder.of_model(base_model)
    groups = dict(iter(table.groupby("latent")))
    for row in about.itertuples():
        bands = groups[row.latent].groupby("band", sort=False)
        feature = {
            "transcoder_id": f"layer {layer}",
            "index": row.latent,
            "examples_quantiles": [
                {
                    "quantile_name": BAND_NAMES[band],
                    "examples": [_example(context, decode) for context in group.itertuples()],
                }
                for band, group in bands
            ],
            "top_logits": list(row.promoted),
            "bottom_logits": list(row.suppressed),
            "act_min": 0.0,
            "act_max": float(row.max_activation),
            "activation_frequency": float(row.density),
        }
        with atomic(Path(folder) / f"{number(layer, row.latent)}.json") as partial:
            partial.write_text(json.dumps(feature, ensure_ascii=False, allow_nan=False), encoding="utf-8")


def number(layer: int, latent: int) -> int:
    """Cantor's pairing of two numbers, by which circuit-tracer's page asks for a latent."""
    return (layer + latent) * (layer + latent + 1) // 2 + latent


def _example(context, decode: Decoder) -> dict:
    return {
        "tokens": decode(context.tokens),
        "tokens_acts_list": [round(float(value), 4) for value in context.activations],
        "train_token_ind": int(context.peak),
        "is_repeated_datapoint": False,
    }
