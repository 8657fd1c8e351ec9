"""A job's log: lines, progress with rate and time left, one line for what a user can mend."""

import errno

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from sae_atlas.io.errors import AtlasError
from sae_atlas.io.log import job_log, logger, progress


def test_lines_and_progress_go_to_the_log(tmp_path):
    with job_log(tmp_path / "job.log"):
        logger.info("reading")
        with progress(10, "tokens", "layer 3") as bar:
            bar.update(10)
    text = (tmp_path / "job.log").read_text()
    assert "reading" in text
    assert "layer 3: 100%" in text
    assert "tokens/s" in text


def test_a_users_error_is_one_line_and_a_non_zero_exit(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop, job_log(tmp_path / "job.log"):
        raise AtlasError("config.yaml: k: too large; lower it")
    assert stop.value.code == 1
    assert capsys.readouterr().err == "error: config.yaml: k: too large; lower it\n"
    assert "Traceback" not in (tmp_path / "job.log").read_text()


def test_a_full_disk_is_a_users_error(tmp_path, capsys):
    with pytest.raises(SystemExit), job_log(tmp_path / "job.log"):
        raise OSError(errno.ENOSPC, "No space left on device", "results/stores/layer07")
    assert "results/stores/layer07: the disk is full" in capsys.readouterr().err


def test_a_full_disk_is_one_in_a_library_written_in_rust_too(tmp_path, capsys):
    with pytest.raises(SystemExit), job_log(tmp_path / "job.log"):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert "the disk is full" in capsys.readouterr().err
    with pytest.raises(SafetensorError), job_log(tmp_path / "job.log"):
        save_file({"a": torch.zeros(10)}, tmp_path / "no" / "folder")  # (os error 2)


def test_our_own_defects_keep_their_traceback(tmp_path):
    with pytest.raises(ZeroDivisionError), job_log(tmp_path / "job.log"):
        1 / 0  # noqa: B018
    assert "ZeroDivisionError" in (tmp_path / "job.log").read_text()
