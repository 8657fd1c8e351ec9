"""Names of a layer's latents: offline for all, by a language model for the most important where the config gives one.

Each name is tested on windows of documents that it was not made from (features.detection).
"""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from sae_atlas.base_models.load import is_model
from sae_atlas.corpus import open_corpus
from sae_atlas.features.decoder import Decoder
from sae_atlas.features.detection import Trial, balanced_accuracy
from sae_atlas.features.endpoint import Endpoint
from sae_atlas.features.model_namer import (
    NAME_TOKENS,
    PICK_TOKENS,
    estimate,
    name_batch,
    naming_question,
    pick,
    picking_question,
)
from sae_atlas.features.name_patterns import PatternFrequency
from sae_atlas.features.naming_examples import Latent, Texts, gather
from sae_atlas.features.offline_namer import Named, offline_name
from sae_atlas.features.row_namer import SharedFrequency, shared_name
from sae_atlas.io.log import logger, progress
from sae_atlas.io.tables import read_table, write_table


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
) -> None:
    """Write a row per latent: latent, name, source, confidence, detection, detection_contexts; no name for dead ones.

    window: tokens of the windows that names are tested on. endpoint: None, or {url, model, batch, latents}: the model names
    so many `latents`, the most important ones, `batch` in a request; cache: folder of its answers. row_texts: of saved
    activations where the text of their rows is (texts.labels); without one there are no names, for numbers are none.
    Raises AtlasError for an endpoint that cannot be used.
    """
    about = read_table(features)
    opened, of_rows = open_corpus(corpus), not is_model(base_model)
    decode = Decoder.of_atlas(base_model, opened.context, row_texts)
    texts = Texts(read_table(raw), opened.topics(), window, decode)
    of_latents = (read_table(each, may_be_empty=True) for each in (contexts, documents))
    latents = gather(*of_latents, about, texts, decode, layer)
    base = (SharedFrequency if of_rows else PatternFrequency)(texts.whole)
    rows = {}
    if of_rows and row_texts is None:
        latents = {}
    with progress(len(latents), "latents", f"layer {layer}") as bar:
        for number, latent in latents.items():
            given = (latent.windows, base) if of_rows else (latent.windows, latent.promoted, base)
            named = (shared_name if of_rows else offline_name)(*given)
            if named is None:
                continue
            predicted = np.array(
                [named.rule is not None and named.rule.anywhere(each) for each in latent.trial.windows], bool
            )
            rows[number] = _row(named, "offline", predicted, latent.trial)
            bar.update()
    if endpoint:
        model = Endpoint(endpoint["url"], endpoint["model"], cache, key_variable)
        order = about.sort_values(["importance", "latent"], ascending=[False, True]).latent
        asked = [number for number in order if number in latents][: endpoint["latents"]]
        rows |= _ask(model, {number: latents[number] for number in asked}, endpoint["batch"], price)
    columns = ("name", "source", "confidence", "detection", "detection_contexts")
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns).reindex(about.latent)
    table = table.fillna({"confidence": 0.0, "detection_contexts": 0}).astype(
        {"confidence": np.float32, "detection": np.float32, "detection_contexts": np.int32}
    )
    table.index = table.index.astype(np.int32).rename("latent")
    write_table(names, pa.Table.from_pandas(table.reset_index(), preserve_index=False))


def _ask(model: Endpoint, latents: dict[int, Latent], batch: int, price: dict | None) -> dict[int, tuple]:
    """Rows of the latents that the model named; what it costs is logged before the first request."""
    numbers = list(latents)
    batches = [
        {number: (latents[number].windows, latents[number].promoted) for number in numbers[first : first + batch]}
        for first in range(0, len(numbers), batch)
    ]
    unknown = [each for each in batches if not model.known(naming_question(each))]
    questions, tokens = [naming_question(each) for each in unknown], NAME_TOKENS * sum(map(len, unknown))
    tries = [
        picking_question("?" * 40, latents[number].trial.windows)
        for number in numbers
        if len(latents[number].trial.fires)
    ]
    logger.info(
        "%s: naming takes %s; detection at most %s more",
        model.model,
        estimate(questions, tokens, price),
        estimate(tries, PICK_TOKENS * len(tries), price),
    )
    rows = {}
    with progress(len(latents), "latents", model.model) as bar:
        for each in batches:
            for number, named in name_batch(model, each).items():
                trial = latents[number].trial
                predicted = pick(model, named.name, trial.windows) if trial.windows else np.zeros(0, bool)
                rows[number] = _row(named, model.model, predicted, trial)
            bar.update(len(each))
    logger.info("%s: %d tokens in, %d out were paid", model.model, *model.paid.values())
    return rows


def _row(named: Named, source: str, predicted: np.ndarray | None, trial: Trial) -> tuple:
    """predicted: None if the model gave no readable answer; then the name is not scored."""
    if predicted is None:
        return named.name, source, named.confidence, math.nan, 0
    return named.name, source, named.confidence, balanced_accuracy(predicted, trial.fires), len(trial.fires)
