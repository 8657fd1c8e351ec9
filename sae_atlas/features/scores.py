"""Scores of a layer's latents without a language model: topics, tokens, positions, and probes on few latents."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy.sparse import csc_array

from sae_atlas.base_models.load import is_model
from sae_atlas.corpus import open_corpus
from sae_atlas.features.decoder import Decoder
from sae_atlas.features.peaks import position_bias, token_entropy, top_tokens
from sae_atlas.features.probes import probe_table
from sae_atlas.features.selectivity import frequent_topics, selectivity
from sae_atlas.io.tables import read_table, write_table


def score_latents(
    documents: str | Path,
    raw: str | Path,
    features: str | Path,
    corpus: str | Path,
    base_model: str | Path,
    scores: str | Path,
    probes: str | Path,
    permutations: int,
    seed: int,
) -> None:
    """Write `scores`, a row per latent, and `probes`, a row per topic and number of latents.

    documents, raw: what features.documents pooled; features: the table with a row per latent. A score is null
    where it is undefined: of a latent that never fires, of a text without topics, and of rows of saved activations those of
    tokens, and of positions where every row stands alone.
    """
    peaks = read_table(documents, may_be_empty=True)
    texts = read_table(raw)
    latents = len(read_table(features))
    opened = open_corpus(corpus)
    topics = opened.topics()[texts.document]
    names = np.array([*frequent_topics(topics), None], object)
    selective = selectivity(matrix(peaks, texts, "activation", latents), topics, permutations, seed)
    tokens = {"token_entropy": token_entropy(peaks), "top_token": top_tokens(peaks)}
    if is_model(base_model):
        tokens["top_token"] = tokens["top_token"].map(Decoder.of_model(base_model).one)
    else:  # every row is itself alone
        tokens = dict.fromkeys(tokens, pd.Series(dtype=object))
    bias = position_bias(peaks, np.concatenate(texts.positions)) if opened.context > 1 else pd.Series(dtype=object)
    table = pd.DataFrame(
        {
            "topic": names[selective.topic],
            "topic_auroc": selective.auroc.astype(np.float32),
            "topic_baseline": selective.baseline.astype(np.float32),
            "token_entropy": tokens["token_entropy"].astype(np.float32),
            "top_token": tokens["top_token"],
            "position_bias": bias.astype(np.float32),
        },
        index=pd.RangeIndex(latents, name="latent").astype(np.int32),
    )
    write_table(scores, pa.Table.from_pandas(table.reset_index(), preserve_index=False))
    means = matrix(peaks, texts, "mean", latents)
    probed = probe_table(means, np.stack(texts["mean"]), topics, names[:-1].tolist(), seed)
    write_table(probes, pa.Table.from_pandas(probed, preserve_index=False))


def matrix(peaks: pd.DataFrame, texts: pd.DataFrame, column: str, latents: int) -> csc_array:
    """Column of the pooled table as a matrix [documents, latents], documents in the order of `texts`."""
    rows = np.searchsorted(texts.document, peaks.document)
    return csc_array((peaks[column], (rows, peaks.latent)), shape=(len(texts), latents))
