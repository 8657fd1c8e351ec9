"""Names of files and folders are what they are: to the shell, to make, to Snakemake, to every library that opens them."""

import shutil
import subprocess

import pytest
import yaml

from workflow import ROOT, planned, small, snakemake

# What a shell, a pattern, a format or an address would take for its own.
ODD = "Größe 東 [ab]*{layer}'\"$HOME`id`;&|<>#%20\\~=,:(x) -d"
SHOWS = '#!/bin/sh\nfor each in "$@"; do echo "<$each>"; done\n'


@pytest.mark.parametrize("target", ["run", "run WARM=", "plan", "report"])
def test_make_hands_on_a_path_as_it_is(target, tmp_path):
    for name in ("python", "sae-atlas", "snakemake"):
        program = tmp_path / name
        program.write_text(SHOWS)
        program.chmod(0o755)
    odd = ODD.replace("$", "$$")  # make's own sign
    paths = [f"CONFIG={odd}.yaml", f"DIRECTORY={odd}", f"BIN={tmp_path}"]
    command = ["make", "--silent", "-o", ".venv/ready", *paths, *target.split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert {f"<{ODD}.yaml>", f"<{ODD}>"} <= set(done.stdout.splitlines()) and done.stderr == ""


@pytest.mark.long
def test_a_run_among_odd_names_is_the_run_it_would_be_elsewhere(finished, tmp_path):
    """Of the config, the folder of the run, a model, a text and published SAEs."""
    folder, others = tmp_path / ODD / "run", tmp_path / ODD.replace("{layer}", "")  # Snakemake would fill it in
    folder.mkdir(parents=True)
    others.mkdir()
    model, saes, text = others / "model", others / "saes", tmp_path / f"{ODD.replace('$HOME', '')}.txt"
    shutil.copytree(finished.folder / "results" / "base_model" / "model", model)
    shutil.copytree(finished.folder / "models" / "sae", saes)
    text.write_text("\n\n".join(f"Text {number} über Größe und Maß. " * 9 for number in range(300)), encoding="utf-8")
    published = {"source": "local", "format": "saelens", "path": str(saes), "tokens": 3000}
    published["file"] = "small-neox_resid{layer}_exp4_3k_topk"
    config = small(**{"activations.layers": [1], "activations.max_live_stores": 2})
    config["base_model"] = {"name": "small-neox", "source": "local", "path": str(model)}
    config["corpus"] |= {"name": "text", "source": "local", "path": str(text)}
    del config["corpus"]["package"]
    config["recipes"] = {
        "topk": config["recipes"]["topk"],
        "published": {"architecture": "topk", "expansion": 4, "k": 4, "pretrained": published},
    }
    file = tmp_path / ODD / "config.yaml"
    file.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    snakemake(folder, file, warm=False)
    assert planned(folder, file) == []
    assert len(list((folder / "models" / "sae").glob("*/model.pt"))) == 2
