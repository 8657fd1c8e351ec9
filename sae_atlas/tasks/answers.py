"""What a code answers to the tasks, by metric, for the items as they are and for resamples of them."""

from dataclasses import dataclass, field

import numpy as np

from sae_atlas.io.errors import AtlasError
from sae_atlas.tasks import topics
from sae_atlas.tasks.accuracy import draws
from sae_atlas.tasks.codes import Code
from sae_atlas.tasks.letters import OfLetter, Words, of_letters
from sae_atlas.tasks.topics import DenseProbes, Labelled


@dataclass
class Answers:
    """drawn: metric -> [draws] (accuracy.draws); probing: number of units -> topic -> accuracy; letters: a row per letter."""

    drawn: dict[str, np.ndarray] = field(default_factory=dict)
    probing: dict[int, dict[str, float]] = field(default_factory=dict)
    letters: list[dict] = field(default_factory=list)


class DocumentTasks:
    """The tasks on documents. Folds, draws and probes on raw activations are the same for every code."""

    def __init__(self, data: Labelled, tasks: list[str]):
        """Raises AtlasError where the documents cannot answer a task."""
        if len(data.names) < 2:
            raise AtlasError(
                f"evaluation.tasks: the text that is read has documents enough of {len(data.names)} topics; raise "
                "evaluation.task_tokens, or leave out the tasks on topics"
            )
        self.data, self.tasks, self.counts = data, tasks, draws(len(data.topics))
        self.dense, self.pairs = DenseProbes(data), topics.topic_pairs(data)
        if "spurious_correlation_removal" in tasks and not self.pairs:
            raise AtlasError(
                "evaluation.tasks: spurious_correlation_removal: of no two topics the text has documents enough with and "
                "without a digit; raise evaluation.task_tokens, or leave it out"
            )

    def shared(self) -> dict[str, np.ndarray]:
        """What does not depend on a code: the accuracy of the dense probes."""
        return {"probing_dense": self.dense.accuracy(self.counts).mean(axis=0)}

    def of(self, code: Code) -> Answers:
        answers = Answers()
        if "sparse_probing" in self.tasks:
            for count, accuracies in topics.sparse_probing(code, self.dense, self.counts).items():
                answers.drawn[f"probing_{count}"] = accuracies.mean(axis=0)
                answers.probing[count] = dict(zip(self.data.names, accuracies[:, 0].tolist(), strict=True))
        if "targeted_probe_perturbation" in self.tasks:
            for count, effects in topics.perturbation(code, self.dense, self.counts).items():
                answers.drawn |= {f"tpp_{count}{_tail(kind, 'total')}": each for kind, each in effects.items()}
        if "spurious_correlation_removal" in self.tasks:
            pairs = [topics.correlation_removal(code, self.data, pair, self.counts) for pair in self.pairs]
            for count, scores in pairs[0].items():
                for kind in scores:
                    mean = np.mean([pair[count][kind] for pair in pairs], axis=0)
                    answers.drawn[f"scr_{count}{_tail(kind, 'metric')}"] = mean
        return answers


def _tail(kind: str, plain: str) -> str:
    return "" if kind == plain else f"_{kind}"


def of_words(code: Code, words: Words) -> Answers:
    """First letters: means over the letters that the model knows, NaN where there are none.

    Draws are of test words; those of the number of latents, which is one per letter, of letters.
    """
    letters = of_letters(code, words)
    drawn = {
        name: _mean([getattr(each, field) for each in letters]) if letters else np.full(len(words.counts), np.nan)
        for name, field in (("letter_f1", "f1"), ("absorption", "absorbed"), ("absorption_full", "absorbed_full"))
    }
    drawn["letter_latents"] = over_letters([len(each.latents) for each in letters])
    return Answers(drawn, letters=[_row(each) for each in letters])


def shared_of_words(words: Words) -> dict[str, np.ndarray]:
    """What does not depend on a code: F1 of the dense probes, and how many letters they tell."""
    return {
        "letter_dense_f1": _mean(words.dense),
        "letters_known": np.array([float(len(words.known)), *[np.nan] * (len(words.counts) - 1)]),
    }


def _mean(of_letters: list[np.ndarray]) -> np.ndarray:
    """Mean over letters, [draws]; in every draw over those that it holds words of."""
    known = np.isfinite(of_letters)
    return np.where(known, of_letters, 0).sum(axis=0) / known.sum(axis=0)


def over_letters(values: list[int]) -> np.ndarray:
    """Mean of one value per letter, and of resamples of the letters, [draws]: NaN where there are too few of them to draw."""
    if len(values) < 2:
        return np.array([values[0] if values else np.nan, np.nan])
    return draws(len(values)) @ np.array(values, float) / len(values)


def _row(letter: OfLetter) -> dict:
    return {
        "letter": letter.letter.lower(),
        "fraction": float(letter.fraction.mean()),
        "full": int(letter.full.sum()),
        "words": int(letter.words.sum()),
        "latents": letter.latents.tolist(),
    }
