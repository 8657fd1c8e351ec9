"""Names of a layer's latents: offline for all, by a language model for the most important where the config gives one.

Each name is tested on windows of documents that it was not made from (features.trials).
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from sae_atlas.base_models.load import is_model
from sae_atlas.corpus import open_corpus
from sae_atlas.features.decoder import Decoder
from sae_atlas.features.endpoint import Endpoint
from sae_atlas.features.judges import ModelJudge, OfflineJudge
from sae_atlas.features.model_namer import (
    NAME_TOKENS,
    PICK_TOKENS,
    estimate,
    name_batch,
    naming_question,
)
from sae_atlas.features.name_patterns import PatternFrequency, Window
from sae_atlas.features.naming_examples import Latent, Texts, gather
from sae_atlas.features.offline_namer import Named, offline_name
from sae_atlas.features.probes import balanced
from sae_atlas.features.row_namer import SharedFrequency, shared_name
from sae_atlas.features.trials import FURTHER, Trials, trials_of
from sae_atlas.io.log import logger, progress
from sae_atlas.io.tables import read_table, write_table

COLUMNS = {"name": object, "source": object, "confidence": np.float32}
COLUMNS |= {"detection": np.float32, "detection_contexts": np.int32}


def name_latents(
    contexts: str | Path,
    features: str | Path,
    documents: str | Path,
    raw: str | Path,
    corpus: str | Path,
    base_model: str | Path,
    names: str | Path,
    layer: int,
    window: int,
    endpoint: dict | None,
    cache: str | Path,
    price: dict | None = None,
    key_variable: str | None = None,
    row_texts: dict | None = None,
    scores: Sequence[str] = (),
) -> None:
    """Write a row per latent: latent, name, source, confidence, detection, detection_contexts; no name for dead ones.

    scores: of trials.FURTHER, whose columns come behind these. window: tokens of the windows that names are tested on.
    endpoint: None, or {url, model, batch, latents}: the model names so many `latents`, the most important ones, `batch` in a
    request; cache: folder of its answers. row_texts: of saved activations where the text of their rows is (texts.labels);
    without one there are no names, for numbers are none. Raises AtlasError for an endpoint that cannot be used.
    """
    about = read_table(features)
    opened, of_rows = open_corpus(corpus), not is_model(base_model)
    decode = Decoder.of_atlas(base_model, opened.context, row_texts)
    texts = Texts(read_table(raw), opened.topics(), window, decode)
    of_latents = (read_table(each, may_be_empty=True) for each in (contexts, documents))
    latents = gather(*of_latents, about, texts, decode, layer)
    if of_rows and row_texts is None:
        latents = {}
    trials = {number: trials_of(latent.trial, scores, [layer, number, 1]) for number, latent in latents.items()}
    base = (SharedFrequency if of_rows else PatternFrequency)(texts.whole)

    def name_of(windows: list[Window], promoted: Sequence[str] = ()) -> Named | None:
        return shared_name(windows, base) if of_rows else offline_name(windows, promoted, base)

    rows, judge = {}, OfflineJudge(name_of)
    with progress(len(latents), "latents", f"layer {layer}") as bar:
        for number, latent in latents.items():
            named = name_of(latent.windows, latent.promoted)
            if named is not None:
                rows[number] = _row(named, judge, trials[number])
            bar.update()
    if endpoint:
        model = Endpoint(endpoint["url"], endpoint["model"], cache, key_variable)
        order = about.sort_values(["importance", "latent"], ascending=[False, True]).latent
        asked = [number for number in order if number in latents][: endpoint["latents"]]
        chosen = {number: latents[number] for number in asked}
        rows |= _ask(model, chosen, trials, endpoint["batch"], price)
    columns = dict(COLUMNS)
    for score in scores:
        columns |= FURTHER[score]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(columns)).reindex(about.latent)
    counts = [name for name, kind in columns.items() if kind is np.int32]
    table = table.fillna({"confidence": 0.0, **dict.fromkeys(counts, 0)}).astype(columns)
    table.index = table.index.astype(np.int32).rename("latent")
    write_table(names, pa.Table.from_pandas(table.reset_index(), preserve_index=False))


def _ask(
    model: Endpoint, latents: dict[int, Latent], trials: dict[int, Trials], batch: int, price: dict | None
) -> dict[int, dict]:
    """Rows of those latents that the model named; what it costs is logged before the first request."""
    numbers, judge = list(latents), ModelJudge(model)
    batches = [
        {number: (latents[number].windows, latents[number].promoted) for number in numbers[first : first + batch]}
        for first in range(0, len(numbers), batch)
    ]
    unknown = [each for each in batches if not model.known(naming_question(each))]
    questions, tokens = [naming_question(each) for each in unknown], NAME_TOKENS * sum(map(len, unknown))
    tries = [question for number in numbers for question in judge.questions("?" * 40, trials[number])]
    logger.info(
        "%s: naming takes %s; scores at most %s more",
        model.model,
        estimate(questions, tokens, price),
        estimate(tries, PICK_TOKENS * len(tries), price),
    )
    rows = {}
    with progress(len(latents), "latents", model.model) as bar:
        for each in batches:
            for number, named in name_batch(model, each).items():
                rows[number] = _row(named, judge, trials[number])
            bar.update(len(each))
    logger.info("%s: %d tokens in, %d out were paid", model.model, *model.paid.values())
    return rows


def _row(named: Named, judge: OfflineJudge | ModelJudge, trials: Trials) -> dict:
    """A score is NaN where there was no trial, or no answer that could be read."""
    of_name = {"detection": judge.detects, "fuzzing": judge.fits_marks}
    verdicts_of = {
        score: ask(named, windows) if windows else None
        for (score, ask), windows in zip(of_name.items(), (trials.windows, trials.marked), strict=True)
    }
    shares = [
        float(verdicts[~each.fires].sum())
        for each in trials.intruders
        if (verdicts := judge.intruders(each.windows)) is not None
    ]
    scored = {
        score: math.nan if verdicts is None else balanced(verdicts == trials.fires, trials.fires)
        for score, verdicts in verdicts_of.items()
    }
    tested = 0 if verdicts_of["detection"] is None else len(trials.fires)
    about = {"name": named.name, "source": judge.source, "confidence": named.confidence, "detection_contexts": tested}
    return about | scored | {"intruder": float(np.mean(shares)) if shares else math.nan, "intruder_trials": len(shares)}
