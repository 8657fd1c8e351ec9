"""The atlas as a part of another workflow: its own rules, config section and folder beside others'."""

import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from test_lifecycle_workflow import merged

from sae_atlas.io.files import read_json
from workflow import ROOT, SMALL, run, small

OUTER = """
configfile: "config.yaml"


module atlas:
    snakefile:
        "{place}/Snakefile"
    config:
        config["sae"]
    prefix:
        "saes"


use rule * from atlas as atlas_*


rule everything:
    default_target: True
    input:
        rules.atlas_all.input,
        "rows.txt",


rule mine:
    input:
        "saes/models/sae/README.md",
    output:
        "rows.txt",
    shell:
        "grep -c small-neox {{input}} > {{output}}"
"""


def told(folder, *arguments):
    command = ["-m", "snakemake", "--cores", "2", "--directory", str(folder), *arguments]
    done = run(*command, "--snakefile", str(folder / "Snakefile"))
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_another_workflow_can_have_an_atlas_as_a_module(finished, tmp_path):
    """An atlas that lacks some of its last files; one from its beginning: tests/test_survives.py."""
    shutil.copytree(finished.folder, tmp_path / "saes")
    lacking = ["results/metrics.parquet", "results/metrics/topk/layer01.json", "models/sae/README.md"]
    lacking.append("models/sae/small-neox_resid1_exp4_3k_topk/config.json")
    for path in lacking:
        (tmp_path / "saes" / path).unlink()
    config = small()
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"genes": 3, "sae": config}))
    (tmp_path / "Snakefile").write_text(OUTER.format(place=ROOT))
    told(tmp_path)
    assert (tmp_path / "rows.txt").read_text() == "6\n"
    assert all((tmp_path / "saes" / path).is_file() for path in lacking)
    card = read_json(tmp_path / "saes" / lacking[-1])
    assert card["records"]["training"]["stage"] == "train_sae"
    assert not (tmp_path / "results").exists()
    assert "Nothing to be done" in told(tmp_path)
    config["recipes"]["more"] = SMALL["recipes"]["topk"] | {"k": 3}  # stores are made again, the other's SAEs are not
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"genes": 3, "sae": config}))
    assert re.search(r"^atlas_train_sae +9$", told(tmp_path, "--dry-run"), re.MULTILINE)


# Snakemake of an environment in which the library is not installed: it is found beside the workflow.
BARE = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
from snakemake.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("front_door", "config"),
    [("Snakefile", small()), ("workflow/Snakefile", small()), ("workflow/three_stages.smk", merged())],
    ids=["Snakefile", "workflow", "three stages"],
)
def test_the_library_need_not_be_installed(tmp_path, front_door, config):
    command = [sys.executable, "-c", BARE, "--snakefile", str(ROOT / front_door), "--directory", str(tmp_path)]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    command += ["--configfile", str(tmp_path / "config.yaml"), "--cores", "1", "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": ""})
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^total +\d+$", done.stdout, re.MULTILINE)
