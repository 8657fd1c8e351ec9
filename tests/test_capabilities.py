"""Machines that lack something: locks and links of the file system, characters of the terminal, what only Linux has."""

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from refusing import refusing
from safetensors.torch import save_file

from models import random_model
from sae_atlas.config.read import complete_config
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import atomic, write_json
from sae_atlas.io.locks import hold_lock
from sae_atlas.io.log import job_log, logger
from sae_atlas.plan import machine
from workflow import ROOT, command, small, snakemake

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
    done = snakemake(tmp_path, small(), "results/base_model/provenance.json", warm=False)
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


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o077])
def test_who_may_read_and_share_the_umask_says(umask, tmp_path):
    """Of the lock, weights, a model's folder and text."""
    before = os.umask(umask)
    try:
        hold_lock(tmp_path / "lock")
        with atomic(tmp_path / "a.safetensors") as partial:
            save_file({"a": torch.zeros(2)}, partial)
        with atomic(tmp_path / "model") as partial:
            random_model("gpt2").save_pretrained(partial)
        write_json(tmp_path / "a.json", {})
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o666 & ~umask} and len(files) > 4


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


@pytest.mark.parametrize(
    ("name", "locale", "encoding"),
    [(b"gr\xf6\xdfe", "C.UTF-8", "utf-8"), ("Größe".encode(), "C", "ascii")],
    ids=["ISO-8859-1", "UTF-8"],
)
def test_a_folder_whose_name_is_no_text_is_refused_in_one_line(name, locale, encoding, tmp_path):
    folder = os.fsencode(tmp_path) + b"/" + name
    os.mkdir(folder)
    variables = {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [*command(tmp_path, ROOT / "config" / "tiny-neox.yaml"), "--dry-run", "--directory", folder],
        env=os.environ | variables, capture_output=True, text=True, encoding="ascii", errors="replace",
    )  # fmt: skip
    *_, line = done.stderr.splitlines()
    assert f"this name is no text in {encoding}; rename the folder, or run with LC_ALL=C.UTF-8" in line
    assert done.returncode != 0 and "Traceback" not in done.stderr


def test_a_lines_name_that_is_no_text_is_in_the_log(tmp_path, monkeypatch):
    monkeypatch.setattr(logger, "propagate", False)  # the tests' own report cannot hold it
    with job_log(tmp_path / "a.log"):
        logger.info("%s is read", os.fsdecode(b"gr\xf6\xdfe"))
    assert r"gr\udcf6\udcdfe is read" in (tmp_path / "a.log").read_text()


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


def test_neither_home_nor_the_library_need_be_writable(tmp_path):
    """Snakemake, numba and Matplotlib keep caches there. A root without its privileges may not write to them either."""
    tree, home, run = (tmp_path / name for name in ("tree", "home", "run"))
    for part in ("sae_atlas", "workflow", "config"):
        shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Snakefile", tree)
    (tree / "profiles").symlink_to("workflow/profiles")
    for folder in (home, run):
        folder.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump(small()))
    for folder in [home, *(path for path in tree.rglob("*") if path.is_dir())]:
        folder.chmod(0o555)
    outside = {"XDG_CACHE_HOME", "MPLCONFIGDIR", "HF_HOME", "NUMBA_CACHE_DIR", "PYTHONPATH"}
    variables = {name: value for name, value in os.environ.items() if name not in outside} | {"HOME": str(home)}
    bare = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    imports = [sys.executable, "-c", "import sae_atlas.kernels.loops, matplotlib.pyplot"]
    plan = [sys.executable, "-m", "snakemake", "-n", "--configfile", "config.yaml", "--directory", ".", "--snakefile"]
    for started, folder in ((imports, tree), ([*plan, str(tree / "Snakefile")], run)):
        done = subprocess.run([*bare, *started], cwd=folder, env=variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "matplotlib" not in done.stderr.lower()
    assert list(home.iterdir()) == []


def test_a_user_whom_the_system_does_not_know_has_caches_too():
    """As in a container that is given a number for one."""
    bare = ["unshare", "--user", "--map-user=12345", "env", "-u", "HOME", "-u", "XDG_CACHE_HOME"]
    if subprocess.run([*bare, "true"], capture_output=True).returncode:
        pytest.skip("no user namespaces here")
    imports = [sys.executable, "-c", "import sae_atlas.kernels.loops, matplotlib.pyplot"]
    done = subprocess.run([*bare, *imports], env=os.environ | LIBRARY, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
