"""Ask every snapshot of a layer SAEBench's questions, and the same of what it is held against: PCA, and random directions."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import zarr

from sae_atlas.config.task_names import OF_TOPICS
from sae_atlas.features.decoder import Decoder
from sae_atlas.features.text import train_text
from sae_atlas.io.arrays import Rows
from sae_atlas.io.devices import resolve
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import write_json
from sae_atlas.io.log import progress
from sae_atlas.io.provenance import current_record
from sae_atlas.io.tables import finite_or_none, write_rows
from sae_atlas.metrics.evaluate import METRIC_COLUMNS
from sae_atlas.metrics.labels import OF_TASKS, OF_WORDS
from sae_atlas.saes.sae import Sae
from sae_atlas.tasks.accuracy import value_and_interval
from sae_atlas.tasks.answers import Answers, DocumentTasks, of_words, shared_of_words
from sae_atlas.tasks.codes import SAMPLE, Code, pca_code, random_sae
from sae_atlas.tasks.documents import TOKENS_AT_ONCE, Documents
from sae_atlas.tasks.letters import Words
from sae_atlas.tasks.topics import Labelled


def measure_tasks(
    corpus: str | Path,
    base_model: str | Path,
    checkpoints: Sequence[str | Path],
    snapshots: Sequence[str],
    table: str | Path,
    json: str | Path,
    recipe: str,
    layer: int,
    tasks: Sequence[str],
    outlier_norm: float,
    text: str | Path | None = None,
    words: str | Path | None = None,
    device: str = "auto",
) -> None:
    """Write the answers of the `checkpoints` of one layer, which are its `snapshots`, as a tidy table (METRIC_COLUMNS) and,
    with every number of ablated latents, topic and letter, as JSON (tasks.sae_bench reads it).

    text: activations of the documents' text (activations.save), words: those of words (tasks.words), as the `tasks` need
    them. Raises AtlasError for SAEs whose decoders are not linear, and where the text cannot answer a task.
    """
    saes = {name: _linear(Sae.load(path), path) for name, path in zip(snapshots, checkpoints, strict=True)}
    on_documents = [task for task in tasks if task in OF_TOPICS]
    documents = Documents(train_text(corpus, text, layer), outlier_norm) if text else None
    asked = [_OfText(documents, Decoder.of_model(base_model), on_documents)] if documents else []
    if words:
        asked.append(_OfWords(read_words(words, layer)))
    final, on = list(saes.values())[-1], resolve(device)
    parts: dict[str, list[Answers]] = {name: [] for name in (*saes, "random")}
    with progress(len(parts) * len(asked), "SAEs", f"layer {layer}") as bar:
        for each in asked:
            for name, sae in (saes | {"random": _random(final, each.sample)}).items():
                parts[name].append(each.answers(sae.to(on)))
                sae.to("cpu")
                bar.update()
    joined = {name: _joined(answers) for name, answers in parts.items()}
    random, shared = joined.pop("random"), {name: of for each in asked for name, of in each.shared().items()}
    items = {kind: count for each in asked for kind, count in each.items.items()}
    rows = []
    for snapshot, sae in saes.items():
        about = {"recipe": recipe, "layer": layer, "snapshot": snapshot, "tokens": sae.config["tokens"]}
        drawn = joined[snapshot].drawn | shared | {f"{name}_random": each for name, each in random.drawn.items()}
        rows += [about | row for row in _rows(drawn, items)]
    write_rows(table, rows, METRIC_COLUMNS)
    answers = {name: _plain(each, shared) for name, each in (joined | {"random": random}).items()}
    write_json(json, {"answers": answers, "record": current_record()})


def read_words(path: str | Path, layer: int) -> Words:
    """What tasks.words.save_words wrote of a layer. Raises AtlasError if it is not readable."""
    try:
        group = zarr.open_group(path, mode="r")
        name = f"layer{layer:02d}"
        x = Rows(Path(path) / name, group[name], "activations of words")[:].astype(np.float32)
        return Words(x, group.attrs["words"], group.attrs["test"])
    except (FileNotFoundError, KeyError, ValueError) as error:
        raise AtlasError(f"{path}: no readable activations of words; delete them and rerun") from error


class _OfText:
    """The tasks on documents, with what PCA of the documents answers."""

    def __init__(self, documents: Documents, decoder: Decoder, tasks: list[str]):
        self.documents, self.sample = documents, documents.sample(SAMPLE)
        data = Labelled(documents.raw(), documents.topics, documents.has_digit(decoder))
        self.tasks = DocumentTasks(data, tasks)
        self.items = {"tokens": int(documents.lengths.sum())}

    def answers(self, sae: Sae) -> Answers:
        return self.tasks.of(Code(self.documents.latents(sae), sae.W_dec.cpu().numpy()))

    def shared(self) -> dict[str, np.ndarray]:
        components = self.tasks.of(pca_code(self.tasks.data.x)).drawn
        return self.tasks.shared() | {f"{name}_pca": each for name, each in components.items()}


class _OfWords:
    """The tasks on words."""

    def __init__(self, words: Words):
        self.words, self.sample = words, torch.from_numpy(words.x)
        self.items = {"words": words.test}

    def answers(self, sae: Sae) -> Answers:
        with torch.inference_mode():
            parts = [sae.encode(x.to(sae.b_dec.device)).cpu() for x in self.sample.split(TOKENS_AT_ONCE)]
        return of_words(Code(torch.cat(parts).numpy(), sae.W_dec.cpu().numpy()), self.words)

    def shared(self) -> dict[str, np.ndarray]:
        return shared_of_words(self.words)


def _linear(sae: Sae, path: str | Path) -> Sae:
    if sae.token_norm is not None:
        raise AtlasError(
            f"{path}: normalises every token ({sae.token_norm}), so what a latent writes depends on the token; the tasks "
            "take means over tokens. Remove evaluation.tasks"
        )
    return sae


def _random(sae: Sae, x: torch.Tensor) -> Sae:
    """Random directions with the SAE's number of latents, and its L0 on x [rows, d_in]."""
    with torch.inference_mode():
        l0 = float((sae.encode(x) > 0).sum(dim=1).double().mean())
    return random_sae(x, sae.d_sae, l0)


def _joined(every: list[Answers]) -> Answers:
    joined = Answers()
    for each in every:
        joined.drawn |= each.drawn
        joined.probing |= each.probing
        joined.letters += each.letters
    return joined


def _rows(drawn: Mapping[str, np.ndarray], items: Mapping[str, int]):
    """Rows of those metrics that have a label, and of which there is anything to say: of no letter that the model knows nothing
    is said. items: how many `tokens` and `words` are read.
    """
    for metric, about in OF_TASKS.items():
        if metric in drawn and np.isfinite(drawn[metric][0]):
            value, low, high = value_and_interval(drawn[metric])
            read = items["words" if metric in OF_WORDS else "tokens"]
            yield {
                "metric": metric,
                "value": value,
                "low": low,
                "high": high,
                "unit": about.unit,
                "held_out_tokens": read,
            }


def _plain(answers: Answers, shared: Mapping[str, np.ndarray]) -> dict:
    values = {name: finite_or_none(float(each[0])) for name, each in (answers.drawn | shared).items()}
    probing = {str(count): each for count, each in answers.probing.items()}
    return {"values": values, "probing": probing, "letters": answers.letters}
