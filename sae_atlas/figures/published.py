"""Published points of other suites, as reference marks where base model, site and layer are the same."""

from typing import NamedTuple


class Point(NamedTuple):
    l0: float
    ce_recovered: float  # zero ablation
    fvu: float | None  # None where it is not published, or not of the centred kind


class Suite(NamedTuple):
    name: str
    source: str
    base_model: str  # id on the hub
    site: str
    points: dict[int, tuple[Point, ...]]  # layer -> points


SUITES = (
    Suite(
        "dictionary_learning, L1, 32,768 latents, 2B tokens",
        "github.com/saprmarks/dictionary_learning, README",
        "EleutherAI/pythia-70m-deduped",
        "resid_post",
        {
            0: (Point(59, 0.97, 0.08),),
            1: (Point(54, 0.95, 0.15),),
            2: (Point(108, 0.95, 0.04),),
            3: (Point(68, 0.95, 0.04),),
            4: (Point(61, 0.95, 0.12),),
            5: (Point(72, 0.92, 0.10),),
        },
    ),
    Suite(
        "SAEBench, TopK, 16,384 latents, 500M tokens",
        "arXiv 2503.09532, measured again by github.com/meowmaryexe/SAEBench-Reliability (eaacfce)",
        "EleutherAI/pythia-160m-deduped",
        "resid_post",
        {
            8: (
                Point(20, 0.9560, None),
                Point(40, 0.9710, None),
                Point(80, 0.9813, None),
                Point(160, 0.9887, None),
                Point(320, 0.9955, None),
                Point(640, 0.9987, None),
            )
        },
    ),
    Suite(
        "SAEBench, L1 (April update), 16,384 latents, 500M tokens",
        "arXiv 2503.09532, measured again by github.com/meowmaryexe/SAEBench-Reliability (eaacfce)",
        "EleutherAI/pythia-160m-deduped",
        "resid_post",
        {
            8: (
                Point(52.1, 0.9382, None),
                Point(97.5, 0.9567, None),
                Point(157, 0.9674, None),
                Point(313, 0.9794, None),
                Point(500, 0.9860, None),
                Point(697, 0.9896, None),
            )
        },
    ),
)


def suites_of(base_model: str | None, site: str) -> list[Suite]:
    """Suites trained on that base model (id on the hub; None for others) at that site."""
    return [suite for suite in SUITES if (suite.base_model, suite.site) == (base_model, site)]
