"""Contexts as JSON: a list per latent, and the form that SAEDashboard writes for Neuronpedia, which other viewers read."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as parquet

from sae_atlas.base_models.load import is_model
from sae_atlas.features.bands import BETWEEN, TOP
from sae_atlas.features.decoder import Decoder
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import atomic
from sae_atlas.io.tables import read_table

DIGITS = 3  # of logits and activations, as SAEDashboard rounds them
# Parts of SAEDashboard's page about neurons of the model, correlations and heads; not measured here.
NOT_MEASURED = (
    *(f"neuron_alignment_{name}" for name in ("indices", "values", "l1")),
    *(f"correlated_{of}_{name}" for of in ("neurons", "features") for name in ("indices", "l1", "pearson")),
    "logits_hist_data_bar_heights",
    "logits_hist_data_bar_values",
    "decoder_weights_dist",
)


def contexts_as_json(
    contexts: str | Path, base_model: str | Path, file: str | Path, context: int = 1, row_texts: dict | None = None
) -> None:
    """Write latent -> its highest contexts, each with text, score (the activation), token_index and token at the peak.

    token_index: in the tokens of the text. Dead latents are left out. context, row_texts: of saved activations alone, whose
    rows stand for tokens (texts.labels).
    """
    table = read_table(contexts, may_be_empty=True)
    decode = Decoder.of_atlas(base_model, context, row_texts).decode
    top = table[table.band == TOP]
    texts = [decode(row.tolist()) for row in top.tokens]
    tokens = [decode([row[peak]]) for row, peak in zip(top.tokens, top.peak, strict=True)]
    contexts_of_latent: dict[int, list] = {}
    for row, text, token in zip(top.itertuples(), texts, tokens, strict=True):
        context = {"text": text, "score": float(row.activation), "token_index": int(row.peak), "token": token}
        contexts_of_latent.setdefault(int(row.latent), []).append(context)
    _write(file, contexts_of_latent)


def contexts_for_neuronpedia(
    contexts: str | Path,
    features: str | Path,
    base_model: str | Path,
    file: str | Path,
    model: str,
    layer: int,
    recipe: str,
    dataset: str,
    context: int,
) -> None:
    """Write one batch of features in the form that SAEDashboard's Neuronpedia runner writes; alive latents only.

    context: tokens of one. A group of contexts has bin_min -1 and bin_contains -1 for the highest; for a quantile's band its
    lowest and highest activation and the share of the peaks that the band spans. What is not measured is empty.
    """
    if not is_model(base_model):
        raise AtlasError(
            "neuronpedia: shows latents of language models; these are of saved activations (contexts_json)"
        )
    table = read_table(contexts, may_be_empty=True)
    about, decode = read_table(features), Decoder.of_model(base_model)
    edges = np.array(json.loads(parquet.read_schema(features).field("histogram").metadata[b"edges"]))
    middles = np.sqrt(edges[1:] * edges[:-1]).round(6).tolist()
    groups = dict(iter(table.groupby("latent")))
    batch = {"model_id": model, "layer": layer, "sae_set": recipe, "features": []}
    for row in about[about.alive].itertuples():
        batch["features"].append(
            {
                "feature_index": row.latent,
                **{name: [] for name in NOT_MEASURED},
                "neg_str": list(row.suppressed),
                "neg_values": _rounded(row.suppressed_logits),
                "pos_str": list(row.promoted),
                "pos_values": _rounded(row.promoted_logits),
                "frac_nonzero": row.density,
                "freq_hist_data_bar_values": middles,
                "freq_hist_data_bar_heights": row.histogram.tolist(),
                "n_prompts_total": row.tokens_seen // (context - 1),  # position 0 begins the document
                "n_tokens_in_prompt": context,
                "dataset": dataset,
                "activations": _activations(groups[row.latent], decode),
            }
        )
    _write(file, batch)


def _activations(rows: pd.DataFrame, decode: Decoder) -> list[dict]:
    windows = []
    for band, group in rows.groupby("band", sort=False):
        low, high = float(group.activation.min()), float(group.activation.max())
        bin_min, share = (-1, -1) if band == TOP else (low, 2 * BETWEEN)
        for row in group.itertuples():
            bounds = {"bin_min": bin_min, "bin_max": high, "bin_contains": share}
            windows.append({**bounds, "tokens": decode(row.tokens), "values": _rounded(row.activations)})
    return windows


def _rounded(values: np.ndarray) -> list[float]:
    return np.asarray(values, np.float64).round(DIGITS).tolist()


def _write(output: str | Path, value: dict) -> None:
    """In one line: these files are large, and read by programs."""
    with atomic(output) as partial:
        partial.write_text(json.dumps(value, ensure_ascii=False, allow_nan=False), encoding="utf-8")
