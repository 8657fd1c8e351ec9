"""Machines that lack something: locks and links of the file system, characters of the terminal, what only Linux has."""

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from refusing import refusing

from sae_atlas.config.read import complete_config
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.locks import hold_lock
from sae_atlas.plan import machine
from workflow import ROOT, small, snakemake

LIBRARY = {"PYTHONPATH": str(ROOT)}
WITHOUT_LINKS = """
import logging, sys
from pathlib import Path
from sae_atlas.publish.cards.listed import fill_folder
logging.basicConfig()
fill_folder(Path(sys.argv[1]), {"a": sys.argv[2], "b": sys.argv[2]}, {"a": "0", "b": "0"}, {})
"""
READ = """
import sys
from sae_atlas.corpus import read_documents
print(len(list(read_documents({"source": "local", "path": sys.argv[1]}, 0))))
"""


def python(code: str, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=os.environ | LIBRARY | environment, capture_output=True, check=True)


def test_where_files_take_no_locks_it_is_said_once_and_the_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("LD_PRELOAD", refusing(tmp_path)["LD_PRELOAD"])
    done = snakemake(tmp_path, small(), "results/base_model/provenance.json")
    line = f"{tmp_path}/results takes no locks (No locks available): only one run at a time may be at work here"
    assert done.stdout.count(line) == done.stdout.count("takes no locks") == 1


def test_weights_are_copied_where_there_are_no_links_and_that_is_said_once(tmp_path):
    (tmp_path / "weights").write_bytes(b"weights")
    done = python(WITHOUT_LINKS, tmp_path / "release", tmp_path / "weights", **refusing(tmp_path))
    assert (
        done.stderr.decode().count("holds copies and takes disk of its own, for no hard links can be made there") == 1
    )
    assert {(tmp_path / "release" / name).read_bytes() for name in "ab"} == {b"weights"}


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_text_is_read_where_its_cache_takes_no_locks(number, tmp_path):
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": f"document {each}"}) + "\n" for each in range(7)))
    done = python(READ, tmp_path / "text.jsonl", HF_HOME=str(tmp_path / "home"), **refusing(tmp_path, number))
    assert done.stdout == b"7\n"


def test_who_may_share_a_lock_the_umask_says(tmp_path):
    before = os.umask(0o002)
    try:
        hold_lock(tmp_path / "lock")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "lock").stat().st_mode) == 0o664


@pytest.mark.parametrize("name", ["Größe 東.yaml".encode(), b"gr\xf6\xdfe.yaml"], ids=["UTF-8", "ISO-8859-1"])
@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1", "utf-8"])
def test_a_terminal_may_lack_a_character(encoding, name, tmp_path):
    """What the file is called, whatever it is written in, is printed with escapes."""
    file = os.fsencode(tmp_path) + b"/" + name
    with open(file, "w", encoding="utf-8") as stream:
        yaml.safe_dump(small(), stream)
    command = [sys.executable, "-m", "sae_atlas", "check", file]
    variables = os.environ | LIBRARY | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "1"}
    done = subprocess.run(command, env=variables, capture_output=True)
    assert done.returncode == 0 and done.stdout.endswith(b".yaml: is right\n") and not done.stderr


def test_a_plan_needs_nothing_that_linux_alone_has(tmp_path, monkeypatch):
    for name in ("sched_getaffinity", "posix_fadvise"):
        monkeypatch.delattr(os, name)
    assert machine.available_cores() == os.cpu_count()
    assert min(machine._disk(tmp_path)) > 0


def test_a_folder_whose_name_snakemake_would_fill_in_is_refused(tmp_path):
    (tmp_path / "{layer}").mkdir()
    published = {"source": "local", "format": "sparsify", "path": str(tmp_path / "{layer}"), "tokens": 100}
    recipe = {"architecture": "topk", "k": 4, "expansion": 4, "pretrained": published}
    with pytest.raises(AtlasError, match=r"recipes\.topk\.pretrained\.path: .*brace, which Snakemake fills in; rename"):
        complete_config(small(recipes={"topk": recipe}), "config.yaml")
