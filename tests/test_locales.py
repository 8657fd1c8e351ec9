"""The locale decides nothing: the same bytes everywhere, whatever text and terminal are encoded in elsewhere."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from workflow import small, snakemake

ONE = small(**{"activations.layers": [1], "activations.max_live_stores": 2, "release.author": "Zoë Ångström — 東京"})
ONE["features"] = {"layers": [1], "tokens": "1k", "contexts": 2, "window": 8}
ONE["training"] = {"tokens": "2k", "snapshots": ["1k"]}
del ONE["recipes"]["l1"]
COSTS = re.compile(rb"<h3>Time and cost of every rule</h3>.*?</table>", re.DOTALL)


def contents(folder: Path) -> dict[str, bytes]:
    """Files of a run by name, without logs, and without what the page says of times and memory."""
    files = [path for path in folder.rglob("*") if path.is_file() and ".snakemake" not in path.parts]
    named = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
    there = {
        name: value for name, value in named.items() if not name.startswith(("results/logs", "results/benchmarks"))
    }
    there["results/index.html"] = COSTS.sub(b"", there["results/index.html"])
    return there


@pytest.mark.long
def test_a_run_gives_the_same_bytes_in_every_locale(tmp_path, monkeypatch):
    charmaps = tmp_path / "locales"
    charmaps.mkdir()
    make = ["localedef", "-i", "de_DE", "-f", "ISO-8859-1", str(charmaps / "de_DE.ISO-8859-1")]
    if shutil.which("localedef") is None or subprocess.run(make).returncode:
        pytest.skip("the locale cannot be made here")
    locales = {
        "UTF-8": {"LC_ALL": "C.UTF-8"},
        "ISO-8859-1": {"LC_ALL": "de_DE.ISO-8859-1", "LOCPATH": str(charmaps)},
        "ASCII": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    }
    found = {}
    for name, variables in locales.items():
        folder = tmp_path / name
        folder.mkdir()
        with monkeypatch.context() as patch:
            for variable, value in variables.items():
                patch.setenv(variable, value)
            snakemake(folder, ONE, warm=False)
        found[name] = contents(folder)
    for name in ("ISO-8859-1", "ASCII"):
        assert {file for file in found["UTF-8"] if found[name].get(file) != found["UTF-8"][file]} == set()
        assert found[name].keys() == found["UTF-8"].keys()
