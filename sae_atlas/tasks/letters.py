"""First letters of words, letter by letter: probes, splitting, absorption."""

from dataclasses import dataclass, field

import numpy as np

from sae_atlas.io.errors import AtlasError
from sae_atlas.tasks.absorption import absorbed
from sae_atlas.tasks.accuracy import draws
from sae_atlas.tasks.codes import Code
from sae_atlas.tasks.first_letter import dense_probes, f1, sparse_weights, split
from sae_atlas.tasks.linear_probe import LinearProbe
from sae_atlas.tasks.words import LETTERS

LEAST_WORDS = 5  # of a letter, in each half
KNOWN = 0.6  # F1 above which a letter counts as known to the model (SAEBench's min_GT_probe_f1)


@dataclass
class Words:
    """x [words, d_in]: raw activations; texts: the words; the last `test` of them are for the test.

    Raises AtlasError where no letter has words enough.

    letters: those with words enough in both halves; known: those of them that the dense probes tell with an F1 above KNOWN.
    """

    x: np.ndarray
    texts: list[str]
    test: int
    letters: list[str] = field(init=False)
    members: np.ndarray = field(init=False)
    probes: list[LinearProbe] = field(init=False)

    def __post_init__(self):
        first = np.array([text[0].upper() for text in self.texts])
        enough = [
            letter
            for letter in LETTERS
            if min((first[: -self.test] == letter).sum(), (first[-self.test :] == letter).sum()) >= LEAST_WORDS
        ]
        if not enough:
            raise AtlasError(
                f"evaluation.tasks: first_letter: with no letter begin {LEAST_WORDS} words for each half; leave it out"
            )
        self.letters, self.members = enough, first == np.array(enough)[:, None]
        self.probes = dense_probes(self.x[: -self.test], self.members[:, : -self.test])
        self.counts = draws(self.test)
        self.said = np.stack([probe.logits(self.x[-self.test :]) > 0 for probe in self.probes])
        self.dense = np.stack(
            [f1(said, truth, self.counts) for said, truth in zip(self.said, self.truth, strict=True)]
        )  # F1 of the dense probes, [letters, draws]
        self.known = [at for at in range(len(enough)) if self.dense[at, 0] > KNOWN]

    @property
    def truth(self) -> np.ndarray:
        """Whether each test word has the letter, [letters, test words] bool."""
        return self.members[:, -self.test :]


@dataclass(frozen=True)
class OfLetter:
    """What a code does with one letter that the model knows. Draws as accuracy.draws of the test words.

    f1: of the probe on one latent, [draws]; latents: those the letter is split over; words: the test words that have it and
    of which the dense probe says so, [test words] bool; fraction, full: absorption of each of these words; absorbed,
    absorbed_full: their means, [draws].
    """

    letter: str
    f1: np.ndarray
    latents: np.ndarray
    words: np.ndarray
    fraction: np.ndarray
    full: np.ndarray
    absorbed: np.ndarray
    absorbed_full: np.ndarray


def of_letters(code: Code, words: Words) -> list[OfLetter]:
    """The letters that the model knows, in their order. code: the SAE's latents on all words [words, d_sae], and its W_dec.

    Of an SAE whose latents are silent on all words there are none.
    """
    fires = np.flatnonzero((code.activations[: -words.test] > 0).any(axis=0))
    if not len(fires):
        return []
    train, test = code.activations[: -words.test, fires], code.activations[-words.test :, fires]
    weights = sparse_weights(train, words.members[:, : -words.test])
    results = []
    for at in words.known:
        truth, asked = words.truth[at], words.truth[at] & words.said[at]
        splitting = split(train, words.members[at, : -words.test], test, truth, weights[at])
        main = fires[splitting.latents]
        taken = absorbed(
            code.activations[-words.test :][asked],
            words.x[-words.test :][asked],
            code.directions,
            words.probes[at].weights,
            main,
        )
        counts = words.counts[:, asked]
        with np.errstate(invalid="ignore"):
            fraction, full = (counts @ each / counts.sum(axis=1) for each in (taken.fraction, taken.full.astype(float)))
        one = f1(splitting.predicted[1], truth, words.counts)
        results.append(OfLetter(words.letters[at], one, main, asked, taken.fraction, taken.full, fraction, full))
    return results
