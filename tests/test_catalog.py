"""What the workflow catalog, citations and the container promise is there."""

import re

import yaml

from workflow import ROOT


def test_the_catalog_finds_what_it_asks_for():
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert set(usage) == {"mandatory-flags", "software-stack-deployment", "report"}
    for name in ("Snakefile", "config/config.yaml", "config/README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff"):
        assert (ROOT / name).is_file(), name


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
