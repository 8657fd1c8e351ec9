"""Warm-ups, the decay and the L0 controller."""

import math

import pytest

from sae_atlas.config.read import complete_config
from sae_atlas.stages.atlas import Atlas
from sae_atlas.training import controller
from sae_atlas.training.schedule import annealed, decayed, warmed_up
from workflow import small


def test_warm_up_rises_to_1_and_stays():
    assert [warmed_up(step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert warmed_up(0, 0) == 1


def test_decay_is_linear_over_the_last_part():
    assert [decayed(tokens, 100, 0.2) for tokens in (0, 80, 90, 100)] == pytest.approx([1, 1, 0.5, 0])
    assert decayed(99, None, 0.2) == decayed(99, 100, 0.0) == 1


def test_an_annealed_power_is_1_for_a_tenth_and_falls_in_equal_steps():
    powers = [annealed(tokens, 100, 0.1) for tokens in range(100)]
    assert powers[:19] == [1] * 19  # the first of ten values, of 9 tokens each, is 1, too
    assert powers == sorted(powers, reverse=True)
    assert sorted(set(powers), reverse=True) == pytest.approx([1 - step / 10 for step in range(10)])
    assert annealed(100, 100, 0.1) == pytest.approx(0.1)
    assert annealed(50, 100, None) == annealed(50, None, 0.1) == 1


def test_a_longer_run_is_the_same_before_its_decay():
    """What lets a run be extended without training its windows again."""
    assert decayed(40, None, 0.2) == decayed(40, 100, 0.2) == decayed(40, 1000, 0.2)


def test_windows_that_an_annealed_penalty_reaches_depend_on_the_length_of_the_run():
    annealing = {"architecture": "relu", "batch": 128, "decay": 0, "l1": {"coefficient": 0.1, "anneal_to": 0.3}}
    config = small(**{"recipes": {"annealed": annealing}, "training": {"tokens": "4k", "snapshots": ["400", "2k"]}})
    atlas = Atlas(complete_config(config, "config.yaml"))
    windows = [atlas.settings("train_sae", recipe="annealed", layer=0, snapshot=name) for name in ("400", "2k", "4k")]
    assert [window["total"] for window in windows] == [None, 4000, 4000]


def test_lambda_rises_above_the_target_and_falls_below():
    assert controller.adapt(0.1, 0.1, 60, 60, 50) > 0.1 > controller.adapt(0.1, 0.1, 40, 40, 50)
    assert controller.adapt(0.1, 0.1, 50, 50, 50) == controller.adapt(0.1, 0.1, None, 50, 50) == pytest.approx(0.1)


def test_lambda_waits_for_an_l0_that_is_falling_already():
    still, falling = controller.adapt(0.1, 0.1, 100, 100, 50), controller.adapt(0.1, 0.1, 103, 100, 50)
    assert still > 0.1 > falling


@pytest.mark.parametrize("l0", [0.0, 1e9])
def test_lambda_moves_in_bounded_steps_within_a_bounded_range(l0):
    penalty = 0.1
    for _ in range(1000):
        moved = controller.adapt(penalty, 0.1, l0, l0, 50)
        assert abs(math.log(moved / penalty)) <= controller.LARGEST_STEP + 1e-12
        penalty = moved
    assert abs(math.log(penalty / 0.1)) == pytest.approx(controller.RANGE)


@pytest.mark.parametrize("target", [8, 32, 128])
def test_it_settles_on_a_target_when_l0_follows_lambda_slowly(target):
    """L0 as a power of lambda, reached with a lag of 20 steps, as weights follow a changed penalty."""
    penalty, l0, smoothed, lowest = 0.01, 2000.0, None, 2000.0
    for _ in range(2000):
        l0 += (3 / penalty - l0) / 20
        before, smoothed = smoothed, controller.smooth(smoothed, l0)
        penalty = controller.adapt(penalty, 0.01, before, smoothed, target)
        lowest = min(lowest, l0)
    assert l0 == pytest.approx(target, rel=controller.CONVERGED)
    assert lowest > 0.95 * target  # an L0 far below it silences latents that do not come back
