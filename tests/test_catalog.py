"""What the workflow catalog, citations and the container promise is there."""

import re

import yaml

import workflow
from workflow import ROOT, command, small

THROUGH_THE_OTHER_DOOR = f"""
module atlas:
    snakefile:
        "{ROOT}/workflow/Snakefile"
    config:
        config
    prefix:
        "saes"


use rule * from atlas
"""


def test_the_catalog_finds_what_it_asks_for():
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert set(usage) == {"mandatory-flags", "software-stack-deployment", "report"}
    assert not (
        ROOT / "workflow" / "Snakefile"
    ).is_symlink()  # which a checkout without links, and git's API, give as text
    for name in (
        "Snakefile",
        "workflow/Snakefile",
        "config/config.yaml",
        "config/README.md",
        "LICENSE",
        "CHANGELOG.md",
        "CITATION.cff",
    ):
        assert (ROOT / name).is_file(), name


def run(folder, snakefile, *arguments) -> str:
    """The workflow in `folder` through another Snakefile; what it prints, without times."""
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(small()))
    line = command(folder, config, *arguments)
    line[line.index("--snakefile") + 1] = str(snakefile)
    done = workflow.run(*line[1:])
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_both_front_doors_lead_to_the_same_jobs(tmp_path):
    plans = [run(tmp_path, ROOT / path, "--dry-run") for path in ("Snakefile", "workflow/Snakefile")]
    jobs = [re.findall(r"^Job \d+: .*$", plan, re.MULTILINE) for plan in plans]
    numbers = [dict(re.findall(r"^(\w+) +(\d+)$", plan, re.MULTILINE)) for plan in plans]
    assert "workflow specific profile" in plans[0] and "workflow specific profile" in plans[1]
    assert numbers[0].pop("all") == numbers[1].pop("default") == "1"
    assert numbers[0] == numbers[1] and numbers[0]["train_sae"] == "18"
    assert len(jobs[0]) > 60 and sorted(jobs[0]) == sorted(jobs[1])


def test_a_module_through_the_other_door_has_a_target_and_a_prefix(tmp_path):
    (tmp_path / "Snakefile").write_text(THROUGH_THE_OTHER_DOOR)
    plan = run(tmp_path, tmp_path / "Snakefile", "--dry-run")
    assert re.search(r"^train_sae +18$", plan, re.MULTILINE)
    assert "page: saes/results/index.html" in plan


def test_the_linter_has_nothing_to_say(tmp_path):
    assert "in a good condition" in run(tmp_path, ROOT / "workflow" / "Snakefile", "--lint")


def test_versions_agree():
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    assert str(yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]) == version


def test_the_container_takes_the_locked_versions():
    text = (ROOT / "Dockerfile").read_text()
    files = re.findall(r"-r (\S+)", text)
    assert sorted(files) == sorted(file.name for file in ROOT.glob("requirements*.lock"))
    assert all(file in re.search(r"COPY (.*) \./", text)[1].split() for file in files)
    assert re.search(r"^FROM python:3\.11\.\d+-\S+$", text, re.MULTILINE)


def test_every_rule_that_runs_a_script_names_its_environment():
    for file in sorted((ROOT / "workflow" / "rules").glob("*.smk")):
        for rule in re.split(r"^rule ", file.read_text(), flags=re.MULTILINE)[1:]:
            if "    script:" in rule:
                path = re.search(r'conda:\n\s+"(.+)"', rule)
                assert path and (file.parent / path[1]).resolve().is_file(), rule.split(":")[0]
