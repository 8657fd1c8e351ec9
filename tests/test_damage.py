"""What the workflow made and finds damaged makes room for its successor; what may be sound, or is the user's own, stays."""

import os
import re
import shutil

import numpy as np
import pytest
from random_saes import random_checkpoint
from stores import make_store

from sae_atlas.activations.store import open_store
from sae_atlas.io.errors import AtlasError, Damaged
from sae_atlas.io.files import atomic
from sae_atlas.io.log import job_log
from sae_atlas.io.provenance import recording
from sae_atlas.publish.formats.load import load_sae
from sae_atlas.saes.checkpoint import load_checkpoint, save
from workflow import small, snakemake

RECORD = {"identity": "a job that reads"}


def flip(path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def job(folder, read, capsys) -> str:
    """What a job of the workflow prints that reads."""
    with pytest.raises(SystemExit), job_log(folder / "job.log"), recording(RECORD):
        read()
    return capsys.readouterr().err


@pytest.fixture
def checkpoint(tmp_path):
    save(tmp_path / "a.pt", **random_checkpoint("topk"))
    return tmp_path / "a.pt"


@pytest.mark.parametrize("damage", [flip, cut])
def test_a_damaged_checkpoint_is_renamed_until_its_successor_is_whole(checkpoint, tmp_path, capsys, damage):
    damage(checkpoint)
    line = job(tmp_path, lambda: load_checkpoint(checkpoint), capsys)
    assert line.startswith(f"error: {checkpoint}: ") and line.count("\n") == 1
    assert line.endswith("It was renamed to .a.pt.damaged; run again, and it will be rebuilt.\n")
    assert not checkpoint.exists() and (tmp_path / ".a.pt.damaged").exists()
    with pytest.raises(RuntimeError), atomic(checkpoint):
        raise RuntimeError
    assert (tmp_path / ".a.pt.damaged").exists()
    save(checkpoint, **random_checkpoint("topk"))
    load_checkpoint(checkpoint)
    assert not (tmp_path / ".a.pt.damaged").exists()


@pytest.mark.parametrize("file", ["c/0/0", "zarr.json"])
def test_a_damaged_store_is_renamed_too(tmp_path, capsys, file):
    store = make_store(tmp_path, rows=1000)
    rows = np.concatenate(list(open_store(store).batches(50)))
    flip(store / file)
    line = job(tmp_path, lambda: list(open_store(store).batches(50)), capsys)
    assert f"It was renamed to .{store.name}.damaged; run again" in line
    assert not store.exists()
    again = make_store(tmp_path, rows=1000)
    assert again == store and np.array_equal(np.concatenate(list(open_store(store).batches(50))), rows)
    assert not list(tmp_path.glob(".*.damaged"))


def test_what_may_be_sound_or_is_the_users_own_stays(checkpoint, tmp_path, capsys, monkeypatch):
    for error in (OSError(5, "Input/output error"), MemoryError()):  # they may pass
        with monkeypatch.context() as patch:
            patch.setattr("zipfile.ZipFile.testzip", lambda _, error=error: (_ for _ in ()).throw(error))
            assert "damaged or no checkpoint" in job(tmp_path, lambda: load_checkpoint(checkpoint), capsys)
    flip(checkpoint)
    assert "a.pt: " in job(tmp_path, lambda: load_sae(checkpoint), capsys)
    with pytest.raises(Damaged), recording(RECORD):  # where no log of a job is open nothing is renamed
        load_checkpoint(checkpoint)
    with pytest.raises(AtlasError, match="Fetch or make it again"):
        load_checkpoint(checkpoint)
    assert checkpoint.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_where_nothing_may_be_renamed_the_remedy_is_told(checkpoint, tmp_path, capsys):
    cut(checkpoint)
    tmp_path.chmod(0o500)
    line = job(tmp_path.parent, lambda: load_checkpoint(checkpoint), capsys)
    tmp_path.chmod(0o700)
    assert "Delete it and rerun; it will be rebuilt." in line and checkpoint.exists()


def test_the_next_run_makes_a_damaged_checkpoint_again_to_the_same_bytes(finished, tmp_path):
    folder, victim = tmp_path / "copied", "results/checkpoints/topk/sae_layer01_1k.pt"
    shutil.copytree(finished.folder, folder)
    before = (folder / victim).read_bytes()
    flip(folder / victim)
    reader = "results/metrics/topk/layer01.json"
    (folder / reader).unlink()
    done = snakemake(folder, small(), reader, check=False)
    assert done.returncode != 0 and "Traceback" not in done.stdout
    assert re.search(rf"{victim}: \S+ fails its checksum \(crc32\)\. It was renamed to \S+; run again", done.stdout)
    snakemake(folder, small(), victim)
    assert (folder / victim).read_bytes() == before
    assert not list((folder / "results").rglob(".*.damaged"))
