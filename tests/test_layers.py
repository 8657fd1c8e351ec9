"""What `sae-atlas sites` lists can be read as it stands, and its numbers about layers are right on known cases."""

import numpy as np
import pytest
import torch
import zarr
from transformers import AutoConfig

from models import SIZES, random_model
from sae_atlas.__main__ import main
from sae_atlas.commands.sites import geometry, list_sites
from sae_atlas.io.errors import AtlasError
from sae_atlas.sites import SITES
from sae_atlas.sites.hooks import capture
from workflow import ROOT


def listed(text: str) -> dict[str, int]:
    """Site or module path -> width."""
    pairs = [line.split() for line in text.splitlines() if line.startswith("  ")]
    return {(words[0] if words[0] in SITES else words[1]): words for words in pairs}


@pytest.mark.parametrize("architecture", SIZES)
def test_everything_listed_is_a_site_of_that_width(tmp_path, architecture):
    AutoConfig.for_model(architecture, vocab_size=64, **SIZES[architecture]).save_pretrained(tmp_path)
    model, found = random_model(architecture), listed(list_sites(str(tmp_path)))
    assert set(SITES) <= set(found) and len(found) > len(SITES) + 6
    for name, words in found.items():
        if words[1] == "none:":
            assert (architecture, name) == ("gpt_neox", "resid_mid")
            continue
        with capture(model, name, [1]) as activations:
            model(torch.arange(8)[None])
        assert activations[1].shape[-1] == int(words[1] if name in SITES else words[0]), name


def test_dimension_counts_directions_and_outliers_are_left_out_of_it():
    corners = np.concatenate([np.eye(6)[:4], -np.eye(6)[:4]])  # the same spread along 4 of 6 directions
    seen = geometry(np.repeat(3 * corners, 10, axis=0))
    assert seen == pytest.approx({"median_norm": 3, "largest": 1, "outliers": 0, "dimension": 4})
    far = np.zeros((1, 6))
    far[0, 5] = 300
    seen = geometry(np.concatenate([np.repeat(3 * corners, 10, axis=0), far]))
    assert seen == pytest.approx({"median_norm": 3, "largest": 100, "outliers": 1 / 81, "dimension": 4})


def test_rows_of_zeros_make_no_outliers_of_the_others():
    corners = np.concatenate([np.eye(6)[:4], -np.eye(6)[:4]])
    seen = geometry(np.concatenate([3 * corners, np.zeros((20, 6))]))
    assert seen == pytest.approx({"median_norm": 3, "largest": 1, "outliers": 0, "dimension": 4})


def test_saved_layers_are_listed_without_masked_positions(tmp_path, capsys):
    group = zarr.create_group(tmp_path / "results" / "held_out.zarr", zarr_format=3)
    group.attrs["site"] = "resid_post"
    mask = np.tile(np.arange(5) > 0, (8, 1))
    group.create_array("mask", data=mask)
    x = np.zeros((8, 5, 6), np.float32)
    x[:, 0] = 1e6  # a document start
    x[:, 1:] = np.eye(6)[:4]
    group.create_array("layer03/site", data=x)
    assert main(["sites", str(ROOT / "config/tiny-neox.yaml"), "--directory", str(tmp_path)]) == 0
    *_, head, _, line = capsys.readouterr().out.splitlines()
    assert head.startswith("layers at resid_post, 32 held-out tokens")
    assert line.split() == ["03", "1.00", "1.0", "0.00%", "3.0"]  # four corners of a simplex spread along three


@pytest.mark.parametrize("name", ["/nowhere/model", "", "../model", "a b"])
def test_what_is_no_model_at_all_is_not_asked_of_the_hub(name):
    with pytest.raises(AtlasError, match=r"is no folder that is there, no embedded model .* and no id of the hub"):
        list_sites(name)


def test_a_model_that_cannot_be_had_is_one_line(tmp_path):
    with pytest.raises(AtlasError, match=r"base_model: its config cannot be had"):
        list_sites(str(tmp_path))
