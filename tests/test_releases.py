"""A release says what was measured, holds the weights that were measured, and cannot be broken by a name."""

import os
import re
import subprocess

import pytest
import torch
import yaml
from published import LAYERS, SNAPSHOTS, Run, front_matter, headings, page, template

from sae_atlas.config.read import complete_config
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import read_json, sha256
from sae_atlas.publish.cards import listed
from sae_atlas.publish.cards.facts import without_folders
from sae_atlas.publish.cards.names import parse_sae_name, release_name
from sae_atlas.publish.cards.weights import link
from sae_atlas.publish.hub import listed_files
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
    assert sums == {name: sha256(folder / name) for name in files(folder) - {"SHA256SUMS"}}
    assert {"README.md", "config.yaml", "plots/2_metrics_heatmap.png"} < set(sums)


def files(folder) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def narrower(run) -> dict:
    """What is published once layer 0, a snapshot and a figure are no more in the config."""
    return {
        "checkpoints": [run.files[1]["final"]],
        "metrics": [run.metrics[1]],
        "layers": [1],
        "snapshots": ["final"],
        "figures": sorted(run.folder.glob("[12]_*.png")),
    }


def test_publishing_again_gives_the_same(tmp_path):
    run = Run(tmp_path)
    first = {name: sha256(run.publish() / name) for name in files(run.publish())}
    assert {name: sha256(run.publish() / name) for name in files(run.publish())} == first


def test_what_the_config_no_longer_makes_goes_and_the_log_says_so(tmp_path, caplog):
    run = Run(tmp_path)
    whole = files(run.publish())
    with caplog.at_level("INFO"):
        folder = run.publish(**narrower(run))
    gone = {"sae_layer00_1k.pt", "sae_layer00_final.pt", "sae_layer01_1k.pt", "plots/4_feature_density.png"}
    assert files(folder) == whole - gone == {*listed_files(folder)}
    assert all(f"{folder / name}: removed" in caplog.text for name in gone)
    assert run.files[0]["final"].is_file() and (tmp_path / "4_feature_density.png").is_file()


def test_a_file_of_ones_own_stays_and_is_not_published(tmp_path, caplog):
    """Also one that took the place of a file of ours: what it holds is nowhere else."""
    run = Run(tmp_path)
    folder = run.publish()
    own = {"notes.md", "plots/9_my_figure.png", "plots/4_feature_density.png"}
    for name in own:
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_text("mine")
    run.publish(**narrower(run))
    assert all((folder / name).read_text() == "mine" for name in own)
    assert all(f"{folder / name}: no part of what is published" in caplog.text for name in own)
    with pytest.raises(AtlasError) as told:
        listed_files(folder)
    assert {line.split(": no part")[0] for line in str(told.value).splitlines()} == {str(folder / name) for name in own}


def test_what_a_killed_job_left_is_known_to_the_next(tmp_path, monkeypatch):
    """It had linked the first file when it was killed; then the config changes."""
    run = Run(tmp_path)

    def killed(source, target):
        link(source, target)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(listed, "link", killed)
        with pytest.raises(KeyboardInterrupt):
            run.publish()
    folder = run.publish(**narrower(run))
    assert files(folder) == {*listed_files(folder)}


def test_a_list_never_removes_what_lies_outside_the_folder(tmp_path):
    run = Run(tmp_path)
    folder = run.publish()
    victim = tmp_path / "1_training_curves.png"
    with (folder / "SHA256SUMS").open("a") as sums:
        sums.write(f"{sha256(victim)}  ../../1_training_curves.png\n")
    run.publish()
    assert victim.is_file()
    (folder / "SHA256SUMS").write_text("nothing of the kind\n")
    with pytest.raises(AtlasError, match="SHA256SUMS: line 1 is no sha256 and name"):
        run.publish()


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


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"widths": [8]}, "Predicted loss floors of narrower students"),
        ({"widths": [8], "students": {"steps": 10}}, "Predicted and measured loss floors of narrower students"),
    ],
)
def test_the_loss_floors_stand_beside_the_training_curves(tmp_path, section, words):
    run = Run(tmp_path)
    assert "loss_floor" not in page(run.publish(config=small(floors=section)))  # not drawn
    (tmp_path / "8_loss_floor_predictions.png").write_bytes(b"a picture")
    folder = run.publish(config=small(floors=section))
    row = next(line for line in page(folder).splitlines() if "8_loss_floor_predictions" in line)
    assert row.startswith("| ![Training curves of every layer](plots/1_training_curves.png) |")
    assert f"| ![{words}](plots/8_loss_floor_predictions.png) |" in row
    assert page(folder).count("8_loss_floor_predictions") == 1
    assert "plots/8_loss_floor_predictions.png" in listed_files(folder)


def test_lambda_is_stated_in_both_conventions_over_the_layers(tmp_path):
    text = page(Run(tmp_path, "fixed").publish())
    assert "lambda 0.0003 in the convention mean-sum. That is 0.0012 to 1.001 (by layer) in the canonical one." in text


@pytest.mark.parametrize("recipe", ["topk", "fixed", "jumprelu", "pursuit", "transcoder"])
def test_the_loading_snippet_gives_what_the_library_gives(tmp_path, monkeypatch, recipe):
    folder = Run(tmp_path, recipe).publish()
    monkeypatch.chdir(folder)
    names: dict = {}
    exec(re.search(r"```python\n(.*?)```", page(folder), re.DOTALL)[1], names)
    sae = Sae.load(folder / names["path"])
    torch.testing.assert_close(names["latents"], sae.encode(names["x"]))
    torch.testing.assert_close(names["y_hat" if sae.is_transcoder else "x_hat"], sae(names["x"]))


def test_a_release_of_transcoders_says_so(tmp_path):
    text = page(Run(tmp_path, "transcoder").publish())
    assert ": transcoders on base-1b" in text.splitlines()[text.splitlines().index("---", 1) + 1]
    assert "A transcoder for 2 layers of" in text and "(from `mlp_in` to `mlp_out`), each" in text
    assert "| Site | `mlp_in`, 8 dimensions |\n| Target | `mlp_out`, 6 dimensions |\n" in text
    assert "| Architecture | TopK, with a skip connection |\n| Expansion factor | 4: 32 latents per layer |" in text
    assert front_matter(text)["tags"][0] == "transcoder" and "autoencoder" not in text


def test_the_config_shown_is_one_that_runs_and_hides_folders(tmp_path):
    shown = small(
        **{"corpus": {"name": "t", "source": "local", "path": "/home/me/text.jsonl", "context": 32, "tokens": "8k"}}
    )
    text = page(Run(tmp_path).publish(config=shown))
    config = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])
    complete_config(config, "README.md")
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
        complete_config(yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1]), "README.md")


def test_no_folder_of_this_machine_is_published_of_one_path_or_of_several():
    config = {
        "corpus": {"path": ["/home/me/a.txt", "b/c.jsonl"], "split": ["x/y"]},
        "base_model": {"path": "/m/pythia"},
    }
    plain = {"corpus": {"path": ["a.txt", "c.jsonl"], "split": ["x/y"]}, "base_model": {"path": "pythia"}}
    assert without_folders(config) == plain
