"""The notebooks run as they stand; only the folders and the layer are others."""

import contextlib
import io

import nbformat
import torch

from workflow import ROOT


def run(name: str, **changes) -> tuple[dict, str]:
    """The names that a notebook leaves and what it prints; changes: of what its first cell says."""
    book = nbformat.read(ROOT / "docs" / name, as_version=4)
    nbformat.validate(book)
    first, *cells = [cell.source for cell in book.cells if cell.cell_type == "code"]
    names: dict = {}
    exec(first, names)
    assert set(changes) <= set(names)
    names |= changes
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for cell in cells:
            exec(cell, names)
    return names, printed.getvalue()


def test_every_cell_runs_on_a_finished_atlas(finished):
    names, text = run("use_an_sae.ipynb", run=str(finished.folder), layer=1)
    assert "small-neox_resid1_exp4_3k_l1 relu 32 -> 128" in text
    assert "cross-entropy" in text and names["clean"] != names["through"]
    assert [f"x {factor}:" in text for factor in (0.0, 1.0, 5.0)] == [True] * 3
    expected = names["sae"].encode(names["acts"][1])[0, 1:]
    assert torch.equal(names["latents"], expected) and (expected > 0).any()
    assert torch.equal(names["kept"], names["own"]) and not torch.allclose(names["clamped"], names["own"])
    assert text.count("attributed") == 4 and names["scores"].shape == (len(expected) + 1, 128)


def test_an_sae_of_an_array_finds_the_directions_that_are_in_it(tmp_path):
    names, text = run("train_an_sae.ipynb", folder=str(tmp_path / "sae"))
    assert names["fvu"] < 0.1 and "FVU 0.0" in text
    assert (names["cosines"].amax(1) > 0.9).sum() >= 120
    assert sorted(path.name for path in (tmp_path / "sae").iterdir()) == ["curve.parquet", "sae.pt"]
