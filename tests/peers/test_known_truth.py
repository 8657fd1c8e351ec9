"""Metrics against known truth: SAELens' own functions give the same numbers for the same SAE, rows and true features."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from benchmarks.stubs import put_in_place
from sae_atlas.metrics.truth import measured
from sae_atlas.synthetic.truth import Truth
from sae_atlas.synthetic.world import make_world, rows_of

put_in_place()  # of packages that the peers import and none of this needs

WORLD = {"d": 24, "features": 60, "l0": 5, "zipf": 0.6, "correlation": 0.2, "noise": 0.0}
WORLD |= {
    "magnitude": 1.0,
    "magnitude_std": 0.3,
    "hierarchy": {"roots": 5, "children": 3, "depth": 1, "exclusive": 0.5},
}


@pytest.mark.parametrize("d_sae", [40, 60, 96])  # fewer latents than features, as many, more
def test_one_sae_has_the_same_numbers_by_both_codes(d_sae):
    from sae_lens.synthetic import evals

    world = make_world(0, 0, **WORLD)
    x, magnitudes = rows_of(world, 0, 0, 0, 3000)
    truth = Truth(world.directions, world.probability, world.forest.parent, magnitudes.indptr, magnitudes.indices)
    generator = np.random.default_rng(1)
    near = world.directions[generator.integers(60, size=d_sae)]  # some features twice, some not at all
    decoder = near + 0.15 * generator.standard_normal(near.shape).astype(np.float32)
    decoder[:2] = generator.standard_normal((2, 24))
    latents = np.maximum(x @ decoder.T - 0.6, 0)
    latents[:, 3] = 0  # dead
    fires, active = (csr_array((each > 0).astype(float)) for each in (latents, magnitudes.toarray()))
    rows = measured(torch.from_numpy(decoder), fires, active, truth, np.arange(len(x)))
    ours = {row["metric"]: row["value"] for row in rows}
    about = map(torch.from_numpy, (latents, magnitudes.toarray(), decoder, world.directions))
    theirs = vars(evals.compute_classification_metrics(*about))
    theirs["f1"] = theirs.pop("f1_score")
    theirs["mcc"] = evals.mean_correlation_coefficient(torch.from_numpy(decoder), torch.from_numpy(world.directions))
    theirs["uniqueness"] = evals.feature_uniqueness(torch.from_numpy(decoder), torch.from_numpy(world.directions))
    true, l0 = evals.L0Calculator(), evals.L0Calculator()
    true.add_batch(torch.from_numpy(magnitudes.toarray()))
    l0.add_batch(torch.from_numpy(latents))
    theirs |= {"true_l0": true.compute(), "l0_of_true": l0.compute() / true.compute()}
    names = ("mcc", "uniqueness", "precision", "recall", "f1", "true_l0", "l0_of_true")
    assert {name: ours[name] for name in names} == pytest.approx({name: theirs[name] for name in names}, abs=1e-5)
    assert 0.2 < ours["f1"] < 0.95 and 0.5 < ours["mcc"] < 1  # nothing that any code would give
