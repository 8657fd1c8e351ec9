"""The index lists what is published and names everything in a folder that disagrees."""

import json
import os
import subprocess
import sys

import pytest
import torch
from published import RECIPES, Run
from random_saes import activations

import sae_atlas
from sae_atlas.__main__ import main
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import read_json, write_json
from sae_atlas.publish.index import index
from sae_atlas.saes import checkpoint as checkpoints


def publish(folder, recipe="topk"):
    """The folder of one SAE under `folder`/models/sae."""
    (folder / recipe).mkdir(exist_ok=True)
    run = Run(folder / recipe, recipe)
    return run.card(card=folder / "models" / "sae" / run.name / "model_card.md")


def test_every_sae_is_a_row(tmp_path):
    folders = [publish(tmp_path, recipe) for recipe in RECIPES]
    rows = index(tmp_path / "models").splitlines()[2:]
    assert len(rows) == len(RECIPES)
    config = read_json(folders[0] / "config.json")
    (row,) = (row for row in rows if "| topk |" in row)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:6] == ["base-1b", "resid_post", "1", "topk", "4", "2,000"]
    assert cells[-1] == config["files_sha256"]["model.pt"][:12]


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
    publish(tmp_path)
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "sae_atlas", "index", str(tmp_path / "models")]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_command_prints_it_and_fails_where_something_is_wrong(tmp_path, capsys):
    folder = publish(tmp_path)
    assert main(["index", str(tmp_path / "models")]) == 0
    assert "| base-1b |" in capsys.readouterr().out
    (folder / "model_card.md").write_text("nothing")
    assert main(["index", str(tmp_path / "models")]) == 1
    assert "has no heading `Limitations`" in capsys.readouterr().err


def change(folder, **changes):
    write_json(folder / "config.json", read_json(folder / "config.json") | changes)


def other_weights(folder):
    checkpoint = checkpoints.load_checkpoint(folder / "model.pt")
    checkpoint["model_state"]["encoder.bias"] += 1
    checkpoints.save(folder / "model.pt", **checkpoint)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda folder: folder.rename(folder.with_name(folder.name.replace("exp4", "exp8"))),
            "its name says expansion 8",
        ),
        (lambda folder: folder.rename(folder.with_name("my-sae")), "no name of an SAE"),
        (lambda folder: change(folder, layer=0), "its name says layer 1, config.json says 0"),
        (lambda folder: change(folder, d_sae=99), "model.pt says d_sae 32, config.json says 99"),
        (lambda folder: (folder / "config.json").write_text("{"), "not readable"),
        (lambda folder: change(folder, metrics={}) or os.remove(folder / "cfg.json"), "cfg.json is missing"),
        (other_weights, "model.pt is not the file that config.json lists"),
        (other_weights, "sae_weights.safetensors and model.pt hold different weights"),
        (lambda folder: (folder / "model_card.md").write_text("## Limitations"), "has no heading `Intended Use`"),
        (lambda folder: (folder / "notes.txt").write_text("x"), "notes.txt: no part of what was published"),
    ],
)
def test_what_disagrees_is_named(tmp_path, spoil, words):
    spoil(publish(tmp_path))
    publish(tmp_path, "fixed")
    with pytest.raises(AtlasError, match=words) as error:
        index(tmp_path / "models")
    assert all(line.startswith(str(tmp_path)) for line in str(error.value).splitlines())


def test_an_empty_folder_is_said(tmp_path):
    with pytest.raises(AtlasError, match="no SAE is published here"):
        index(tmp_path)


@pytest.mark.parametrize("kind", ["saelens", "sparsify", "dictionary_learning", "safetensors"])
def test_a_published_sae_is_exported_with_what_is_known_of_it(tmp_path, kind):
    folder = publish(tmp_path)
    assert main(["export", str(folder), kind, str(tmp_path / "out")]) == 0
    out = tmp_path / "out" / "sae.safetensors" if kind == "safetensors" else tmp_path / "out"
    sae, other = sae_atlas.load_sae(folder), sae_atlas.load_sae(out)
    x = activations()[:, : sae.d_in]
    torch.testing.assert_close(other.encode(x), sae.encode(x), atol=1e-5, rtol=1e-5)
    metadata = json.loads((folder / "cfg.json").read_text())["metadata"]
    assert metadata["hook_name"] == "blocks.1.hook_resid_post" and metadata["hf_hook_name"] == "model.layers.1"
    assert metadata["context_size"] == 128 and metadata["model_name"] == "owner/base-1b"


def test_a_topk_transcoder_is_exported_where_a_format_has_it(tmp_path, capsys):
    folder = publish(tmp_path, "transcoder")
    assert main(["export", str(folder), "safetensors", str(tmp_path / "out")]) == 0
    sae, other = sae_atlas.load_sae(folder), sae_atlas.load_sae(tmp_path / "out" / "sae.safetensors")
    x = activations()[:, : sae.d_in]
    assert other.is_transcoder and torch.equal(other(x), sae(x))
    assert main(["export", str(folder), "saelens", str(tmp_path / "theirs")]) == 1
    error = capsys.readouterr().err
    assert (
        error.startswith("error: SAELens has no TopK transcoder; choose sparsify, or safetensors")
        and error.count("\n") == 1
    )


def test_a_format_that_cannot_hold_it_is_said_in_one_line(tmp_path, capsys):
    assert main(["export", str(publish(tmp_path, "fixed")), "sparsify", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == "error: sparsify has TopK only, this SAE is relu; choose another format\n"
