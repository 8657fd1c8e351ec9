"""The notebook runs as it stands; only where the run lies and which layer are others."""

import contextlib
import io

import nbformat
import torch

from workflow import ROOT


def test_every_cell_runs_on_a_finished_atlas(finished):
    book = nbformat.read(ROOT / "docs" / "use_an_sae.ipynb", as_version=4)
    nbformat.validate(book)
    first, *cells = [cell.source for cell in book.cells if cell.cell_type == "code"]
    names: dict = {}
    exec(first, names)
    names |= {"run": str(finished.folder), "layer": 1}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for cell in cells:
            exec(cell, names)
    text = printed.getvalue()
    assert "small-neox_resid1_exp4_3k_l1 relu 32 -> 128" in text
    assert "cross-entropy" in text and names["clean"] != names["through"]
    assert [f"x {factor}:" in text for factor in (0.0, 1.0, 5.0)] == [True] * 3
    expected = names["sae"].encode(names["acts"][1])[0, 1:]
    assert torch.equal(names["latents"], expected) and (expected > 0).any()
