"""A release says what was measured, holds the weights that were measured, and cannot be broken by a name."""

import os
import re
import subprocess

import pytest
import torch
import yaml
from published import LAYERS, SNAPSHOTS, Run, front_matter, headings, page, template

from sae_atlas.cards.names import parse_sae_name, release_name
from sae_atlas.files import read_json, sha256
from sae_atlas.plan.config import check_config
from sae_atlas.saes.sae import Sae
from workflow import ROOT, small


def test_a_release_holds_all_layers_and_snapshots_without_using_the_disk_twice(tmp_path):
    run = Run(tmp_path)
    folder = run.publish()
    assert {path.name for path in folder.glob("*.pt")} == {
        f"sae_layer0{layer}_{snapshot}.pt" for layer in LAYERS for snapshot in SNAPSHOTS
    }
    assert os.path.samefile(folder / "sae_layer01_final.pt", run.files[1]["final"])
    sums = dict(reversed(line.split("  ")) for line in (folder / "SHA256SUMS").read_text().splitlines())
    assert sums == {path.name: sha256(path) for path in folder.glob("*.pt")}


def test_publishing_again_replaces_and_clears_what_is_stale(tmp_path):
    run = Run(tmp_path)
    folder = run.publish()
    (folder / "sae_layer07_50M.pt").write_bytes(b"of an earlier config")
    first = page(folder)
    run.publish()
    assert page(folder) == first
    assert not (folder / "sae_layer07_50M.pt").exists()


def test_the_hub_can_read_the_front_matter(tmp_path):
    matter = front_matter(page(Run(tmp_path).publish()))
    assert matter["license"] == "apache-2.0" and matter["library_name"] == "pytorch"
    assert matter["base_model"] == "owner/base-1b"
    assert {"sparse-autoencoder", "sae", "interpretability"} <= set(matter["tags"])


def test_a_release_has_the_published_layout(tmp_path):
    run = Run(tmp_path)
    folder = run.publish()
    text = page(folder)
    for heading in ("Contents", "File naming", "Loading", "Loss convention", "Sister runs", "Reproducing"):
        assert heading in headings(text)
    for image in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text):
        assert (folder / image).is_file()
    assert f"| **{run.release}** | TopK | 4 | k = 3 latents per token |" in text
    sister = release_name(run.base, 4, "fixed")
    assert f"| [{sister}](../{sister}) | ReLU with L1 penalty | 4 | L1 coefficient 0.0003 (mean-sum), fixed |" in text
    assert "cc-by-sa-4.0 (Wikipedia)" in text


def test_lambda_is_stated_in_both_conventions_over_the_layers(tmp_path):
    text = page(Run(tmp_path, "fixed").publish())
    assert "lambda 0.0003 in the convention mean-sum. That is 0.0012 to 1.001 (by layer) in the canonical one." in text


@pytest.mark.parametrize("recipe", ["topk", "fixed", "jumprelu"])
def test_the_loading_snippet_gives_what_the_library_gives(tmp_path, monkeypatch, recipe):
    folder = Run(tmp_path, recipe).publish()
    monkeypatch.chdir(folder)
    names: dict = {}
    exec(re.search(r"```python\n(.*?)```", page(folder), re.DOTALL)[1], names)
    sae = Sae.load(folder / names["path"])
    torch.testing.assert_close(names["latents"], sae.encode(names["x"]))
    torch.testing.assert_close(names["x_hat"], sae(names["x"]))


def test_the_config_shown_is_one_that_runs_and_hides_folders(tmp_path):
    shown = small(
        **{"corpus": {"name": "t", "source": "local", "path": "/home/me/text.jsonl", "context": 32, "tokens": "8k"}}
    )
    text = page(Run(tmp_path).publish(config=shown))
    config = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])
    check_config(config, yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text()), "README.md")
    assert config["recipes"] == shown["recipes"]
    assert "/home/me" not in text and "text.jsonl" in text


def test_nothing_in_a_config_breaks_a_page(tmp_path):
    evil = "x: y\n---\n## Fake\n| a |"
    run = Run(tmp_path)
    plain = page(run.publish())
    text = page(run.publish(licence=evil, author=evil, text=evil))
    assert front_matter(text)["license"] == evil
    assert headings(text.split("\n---\n", 1)[1]) == headings(plain)


def test_weights_under_models_go_through_git_lfs():
    paths = ["models/sae/x/model.pt", "models/releases/y/sae_layer00_final.pt", "models/sae/x/sae_weights.safetensors"]
    command = ["git", "check-attr", "filter", *paths, "models/README.md"]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.rsplit(": ")[-1] for line in lines] == ["lfs"] * 3 + ["unspecified"]


def test_what_the_workflow_publishes_agrees_with_what_it_measured(finished):
    models = finished.folder / "models"
    for folder in (models / "sae").glob("*/"):
        config, parts = read_json(folder / "config.json"), parse_sae_name(folder.name)
        assert (parts.layer, parts.recipe, parts.tokens) == (
            config["layer"],
            config["recipe"]["name"],
            config["tokens"],
        )
        assert config["files_sha256"]["model.pt"] == sha256(folder / "model.pt")
        assert Sae.load(folder / "model.pt").config["record"] == config["records"]["training"]
        assert headings((folder / "model_card.md").read_text()) == headings(template())
    for folder in (models / "releases").iterdir():
        text = page(folder)
        assert front_matter(text)["base_model"] == "small-neox"
        schema = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text())
        check_config(yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1]), schema, "README.md")
