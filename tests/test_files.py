"""Outputs are whole or absent; one run at a time."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sae_atlas.io.files import atomic, read_json, take_back, write_json
from sae_atlas.io.locks import hold_lock


def test_a_failed_write_leaves_the_old_file(tmp_path):
    target = tmp_path / "a.json"
    write_json(target, {"b": 1})
    with pytest.raises(RuntimeError), atomic(target) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert read_json(target) == {"b": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_folder_replaces_a_folder(tmp_path):
    for content in ("old", "new"):
        with atomic(tmp_path / "store") as partial:
            partial.mkdir()
            (partial / content).write_text(content)
    assert os.listdir(tmp_path / "store") == ["new"]


def test_what_was_put_aside_comes_back_where_it_is_missing_or_cut_off(tmp_path):
    backups, there = tmp_path / "backups", {"whole": b"new and whole", "cut": b"ol", "shorter": b"new", "gone": None}
    for name, content in there.items():
        for folder in (backups / "results", tmp_path / "results"):
            folder.mkdir(parents=True, exist_ok=True)
        (backups / "results" / name).write_bytes(b"old and whole")
        if content is not None:
            (tmp_path / "results" / name).write_bytes(content)
    take_back(backups, tmp_path)
    found = {path.name: path.read_bytes() for path in (tmp_path / "results").iterdir()}
    assert found == {"whole": b"new and whole", "cut": b"old and whole", "shorter": b"new", "gone": b"old and whole"}
    assert not backups.exists()
    take_back(backups, tmp_path)


def test_what_a_killed_job_left_is_cleared_by_the_next(tmp_path):
    (tmp_path / ".store.partial-1").mkdir()
    (tmp_path / ".store.partial-1" / "half").write_text("")
    with atomic(tmp_path / "store") as partial:
        partial.write_text("whole")
    assert os.listdir(tmp_path) == ["store"]


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"fvu": float("nan")})
    assert not os.listdir(tmp_path)


def test_what_is_put_back_may_lie_on_another_disk(tmp_path):
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as disk:
        if os.stat(disk).st_dev == tmp_path.stat().st_dev:
            pytest.skip("needs a second file system")
        (tmp_path / "results").symlink_to(disk)
        backup = tmp_path / ".snakemake" / "backups" / "results" / "a.pt"
        backup.parent.mkdir(parents=True)
        backup.write_bytes(b"whole")
        os.utime(backup, (1, 1))
        Path(disk, "a.pt").write_bytes(b"wh")
        take_back(tmp_path / ".snakemake" / "backups", tmp_path)
        assert Path(disk, "a.pt").read_bytes() == b"whole" and Path(disk, "a.pt").stat().st_mtime == 1
        assert os.listdir(disk) == ["a.pt"]
    assert not backup.exists()


def test_a_lock_ends_with_its_process(tmp_path):
    lock = str(tmp_path / "lock")
    hold = f"from sae_atlas.io.locks import hold_lock; hold_lock({lock!r}); print('held', flush=True); input()"
    holder = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(BlockingIOError):
        hold_lock(tmp_path / "lock")
    holder.kill()
    holder.communicate()
    hold_lock(tmp_path / "lock")
