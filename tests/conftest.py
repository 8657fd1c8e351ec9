"""One finished small atlas, shared by the tests that look at it; Triton's interpreter where there is no GPU."""

import fcntl
import json
import os
import shutil
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml

from workflow import command, small

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported, by whomever


if workers := os.getenv("PYTEST_XDIST_WORKER_COUNT"):
    # Threads of several processes on the same cores wait for each other longer than they compute.
    torch.set_num_threads(max(1, os.cpu_count() // int(workers)))

# Files that take minutes, the longest first: begun last, one of them would keep a worker after all others have ended.
LONGEST = (
    "slurm",
    "survives",
    "golden",
    "interruption",
    "start_from",
    "transcoder_workflow",
    "workflow",
    "full_disk",
    "tiny_neox",
    "hub_access",
    "pretrained",
    "pretrained_transcoders",
    "families",
    "tasks_workflow",
    "synthetic_workflow",
    "features_workflow",
    "lifecycle_workflow",
    "own_arrays_workflow",
    "sweeps",
    "finetune",
    "plan_config",
)


def pytest_collection_modifyitems(items):
    place = {f"test_{name}": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


SECRETS = ("HF_TOKEN", "NAMING_KEY", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY")  # in the environment of its run
SECRET = "hf_a-secret-that-nothing-may-hold"


@dataclass(frozen=True)
class Finished:
    """A folder in which the small chain ran, what it printed, and the most stores seen at once while it ran."""

    folder: Path
    output: str
    most_stores: int


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Finished:
    """Made once, by whichever worker asks first; the others wait. A test that would change the folder copies it."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # what the workers have in common
    folder, told = root / "atlas", root / "atlas.json"
    with (root / "atlas.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not told.exists():
            told.write_text(json.dumps(finish(folder)))
    return Finished(folder, **json.loads(told.read_text()))


def finish(folder: Path) -> dict:
    """Run the small chain in `folder`; what `Finished` tells of it. Jobs of interpreters: test_module."""
    folder.mkdir(exist_ok=True)
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(small(), sort_keys=False))
    process = subprocess.Popen(
        command(folder, config, warm=True),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | dict.fromkeys(SECRETS, SECRET),
    )
    most = [0]

    def watch() -> None:
        while process.poll() is None:
            with suppress(FileNotFoundError):  # a folder that goes while it is looked into
                most[0] = max(most[0], sum(1 for _ in (folder / "results" / "stores").glob("layer*/*.zarr")))
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = process.communicate()
    watcher.join()
    assert process.returncode == 0, output
    return {"output": output, "most_stores": most[0]}


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium, driven by playwright; without one the tests that need it are skipped."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make .venv/ready")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no chromium here: `make browser` installs it as root on Debian")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])  # root has no sandbox
        yield browser
        browser.close()
