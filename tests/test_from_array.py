"""train_sae: an SAE of an array; what it refuses, and that it leaves nothing behind but its result."""

import numpy as np
import pytest

from sae_atlas import train_sae
from sae_atlas.io.errors import AtlasError

RECIPE = {"architecture": "topk", "k": 4, "expansion": 2, "batch": 64}


def array(rows: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((rows, 16), dtype=np.float32)


def test_only_the_sae_and_its_curve_stay(tmp_path):
    sae = train_sae(array(512), tmp_path, device="cpu", **RECIPE)
    assert sae.W_dec.shape == (32, 16)
    assert {path.name for path in tmp_path.iterdir()} == {"sae.pt", "curve.parquet"}


def test_what_lies_in_the_folder_stays(tmp_path):
    own = {name: tmp_path / name for name in ("activations.zarr", "store.zarr", "start.pt", "sae.resume.pt")}
    for name, path in own.items():
        path.write_text(name)
    with pytest.raises(AtlasError, match="nowhere"):
        train_sae(array(512), tmp_path, device="cpu", start_from=tmp_path / "nowhere", **RECIPE)
    train_sae(array(512), tmp_path, device="cpu", **RECIPE)
    assert {name: path.read_text() for name, path in own.items()} == {name: name for name in own}
    assert {path.name for path in tmp_path.iterdir()} == {*own, "sae.pt", "curve.parquet"}


@pytest.mark.parametrize(
    ("activations", "line"),
    [
        (array(32), "batch"),
        (np.full((512, 16), np.nan, np.float32), "NaN"),
        (np.full((512, 16), 1e6, np.float32), "float16"),
        (array(512).ravel(), r"\[8192\]; give one of \[tokens, d_in\]"),
        (array(512).reshape(2, 256, 16), r"\[2, 256, 16\]; give one of \[tokens, d_in\]"),
        (array(0), r"\[0, 16\]; give one of \[tokens, d_in\]"),
        (array(512)[:, :0], r"\[512, 0\]; give one of \[tokens, d_in\]"),
        (array(512) + 1j, "an array of complex64; give one of real numbers"),
        (np.full((512, 16), "x"), "an array of <U1; give one of real numbers"),
    ],
    ids=["rows", "nan", "range", "flat", "batched", "none", "no dimension", "complex", "text"],
)
def test_what_cannot_be_trained_on_is_refused_and_nothing_stays(tmp_path, activations, line):
    with pytest.raises(AtlasError, match=line):
        train_sae(activations, tmp_path, device="cpu", **RECIPE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("recipe", "line"),
    [
        ({"k": 33}, r"recipe\.k: 33 is more than the 32 latents \(2 x 16\); lower it or raise expansion"),
        ({"auxk": {"latents": 40}}, r"recipe\.auxk\.latents: 40 is more than the 32 latents"),
        (
            {"architecture": "matryoshka", "groups": [0.01, 0.99]},
            r"recipe\.groups: one of them has none of the 32 latents",
        ),
    ],
)
def test_a_recipe_that_contradicts_the_width_of_the_array_is_refused(tmp_path, recipe, line):
    with pytest.raises(AtlasError, match=line):
        train_sae(array(512), tmp_path, device="cpu", **RECIPE | recipe)
    assert list(tmp_path.iterdir()) == []
