"""The latents with the clearest meaning by their scores, and one latent with its contexts."""

from pathlib import Path

import numpy as np
import pandas as pd

from sae_atlas.base_models.load import is_model
from sae_atlas.features.decoder import Decoder
from sae_atlas.features.model_namer import marked
from sae_atlas.features.name_patterns import Window
from sae_atlas.features.trials import FURTHER
from sae_atlas.io.errors import AtlasError
from sae_atlas.texts.labels import Labels

TRIED = 20  # windows that a name must have been tested on
LISTED_COLUMNS = (
    "layer",
    "latent",
    "name",
    "confidence",
    "detection",
    "topic",
    "topic_auroc",
    "topic_baseline",
    "density",
)


ORDERS = {  # what the first ones have most of, in a sentence
    "specificity": "specificity, in bits: how much better than chance the name tells where the latent fires "
    "(2 x detection - 1), times how rare that is (log2 of 1 / density)",
    "detection": "detection: how well the name tells windows where the latent fires from others (balanced accuracy)",
    "topic": "topic_auroc: how well the latent tells documents of one topic from others",
}


def clearest(folder: str | Path, by: str = "specificity", layer: int | None = None, rows: int = 10) -> pd.DataFrame:
    """LISTED_COLUMNS of the latents of a recipe, the clearest first. folder: results/features/<recipe>. by: one of ORDERS.

    `detection`: names that predict best whether the latent fires, tested on at least TRIED windows, the more confident first.
    `specificity`: the same, weighted by how seldom the latent fires, with a column of that name. `topic`: the largest AUROC
    above its baseline. Raises AtlasError if no layer has names, or none of its latents has the scores.
    """
    table = pd.concat([_layer(folder, number) for number in _layers(folder, layer)], ignore_index=True)
    if not (table.density > 0).any():
        raise AtlasError(
            f"{folder}: none of its {len(table)} latents fires on the text; train longer or with a smaller penalty"
        )
    table["specificity"] = (2 * table.detection - 1) * -np.log2(table.density.where(table.density > 0))
    if by == "topic":
        order = table[table.topic_auroc > table.topic_baseline].sort_values("topic_auroc", ascending=False)
    else:
        tried = table[table.detection_contexts >= TRIED]
        order = tried.sort_values([by, "confidence", "importance"], ascending=False)
    if not len(order):
        why = "no topic is told better than by chance" if by == "topic" else f"no name was tried on {TRIED} windows"
        raise AtlasError(f"{folder}: {why}; raise features.tokens in the config and run again")
    columns = [*LISTED_COLUMNS, *(["specificity"] if by == "specificity" else [])]
    return order.head(rows)[columns].reset_index(drop=True)


def describe(folder: str | Path, layer: int, latent: int, contexts: int = 5) -> str:
    """A latent in a few lines: name, scores, promoted tokens, its highest contexts with the peak between « »."""
    about = _layer(folder, layer).set_index("latent")
    if latent not in about.index:
        raise AtlasError(f"layer {layer} has no latent {latent}; there are 0 to {len(about) - 1}")
    row = about.loc[latent]
    if not row.density:
        return f"layer {layer}, latent {latent}: dead, it fires on none of {row.tokens_seen:,} tokens"
    of_latent = [("latent", "==", latent), ("band", "==", "top")]
    top_contexts = pd.read_parquet(_file(folder, layer, "contexts"), filters=of_latent)
    provenance = Path(folder).absolute().parents[1] / "base_model" / "provenance.json"
    named, of_model = isinstance(row["name"], str), is_model(provenance)
    lines = [f"layer {layer}, latent {latent}: {row['name'] if named else 'no name'}"]
    if named:
        lines.append(
            f"confidence {row.confidence:.2f}, detection {row.detection:.2f} of {row.detection_contexts} windows"
            + "".join(f", {score} {row[score]:.2f}" for score in FURTHER if score in about)
        )
    if of_model:
        decode = Decoder.of_model(provenance)
        lines += [
            f"topic {_topic(row.topic)}: AUROC {row.topic_auroc:.3f}, shuffled topics {row.topic_baseline:.3f}",
            f"fires on {row.density:.2%} of tokens, peaks on {np.exp2(row.token_entropy):.1f} kinds of token",
            f"promotes {', '.join(map(repr, row.promoted[:5])) or 'nothing: this site does not write to the stream'}",
        ]
    else:
        decode = Decoder(Labels(None, 0, 1))
        lines.append(f"fires on {row.density:.2%} of rows")
    for each in top_contexts.head(contexts).itertuples():
        text = " ".join(marked(Window(decode(each.tokens), each.topic, int(each.peak))).split())
        topic = f"  [{_topic(each.topic)}]" if of_model else ""
        lines.append(f"{each.activation:6.1f}  {text}{topic}")
    return "\n".join(lines)


def _topic(name: str | None) -> str:
    return name if isinstance(name, str) else "unknown"


def _layers(folder: str | Path, layer: int | None) -> list[int]:
    numbers = sorted(int(path.name[5:].split("_")[0]) for path in Path(folder).glob("layer*_names.parquet"))
    chosen = [number for number in numbers if layer is None or number == layer]
    if not chosen:
        raise AtlasError(f"{folder}: no named latents; give results/features/<recipe> and a layer that was looked at")
    return chosen


def _layer(folder: str | Path, layer: int) -> pd.DataFrame:
    tables = [
        pd.read_parquet(_file(folder, layer, name)).set_index("latent") for name in ("features", "scores", "names")
    ]
    return pd.concat(tables, axis=1).reset_index().assign(layer=layer)


def _file(folder: str | Path, layer: int, name: str) -> Path:
    path = Path(folder) / f"layer{layer:02d}_{name}.parquet"
    if not path.is_file():
        raise AtlasError(f"{path}: not there; layer {layer} has not been looked at")
    return path
