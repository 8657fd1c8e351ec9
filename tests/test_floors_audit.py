"""The formula and its correction on the toy example that the audit gives in full: 40 latents, alpha 0.90, Zipf importances."""

import numpy as np
import pytest

from sae_atlas.floors.formula import n_retained, tail_sums
from sae_atlas.metrics.importance import capacity

ALPHA, LATENTS = 0.90, 40
ENERGY = (1 - ALPHA) / 3  # E[x^2] of an input that is 0 with probability alpha and else uniform on [0, 1]
PREDICTED = {1: 0.0732, 5: 0.0211, 10: 0.0}  # width -> what the audit gets from the published formula
ACHIEVED = {1: 0.0915, 5: 0.0462, 10: 0.0261}  # width -> mean loss of its trained toy models


def floor(width: int, formula: str) -> float:
    tails = tail_sums(ENERGY / np.arange(1, LATENTS + 1))
    return float(tails[n_retained(width, capacity(ALPHA), LATENTS, formula)])


@pytest.mark.parametrize("width", PREDICTED)
def test_the_published_formula_gives_the_audits_predictions(width):
    assert floor(width, "published") == pytest.approx(PREDICTED[width], abs=5e-5)


def test_d_star_is_the_audits():
    assert LATENTS / capacity(ALPHA) == pytest.approx(9.21, abs=0.005)


@pytest.mark.parametrize("width", ACHIEVED)
def test_the_zipf_correction_comes_nearer_to_what_was_achieved(width):
    published, corrected = (abs(floor(width, formula) - ACHIEVED[width]) for formula in ("published", "zipf"))
    assert corrected < published / 2
