"""The log of a job: timed lines, progress with rate and time left, one line for a user's error."""

import errno
import io
import logging
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tqdm import tqdm

from sae_atlas.io.errors import AtlasError, Damaged, reason
from sae_atlas.io.files import set_aside

logger = logging.getLogger("sae_atlas")
DISK_ERRORS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "permission denied",
}
# How safetensors and tokenizers tell an error of the disk, in classes of their own.
IN_RUST = re.compile(r"\(os error (\d+)\)")
GO_ON = "Nothing is lost; run the same command again."
LARGER = "Nothing is lost; run fewer jobs at once (--cores), lower batch or expansion, or take a larger machine, and run again."


@contextmanager
def job_log(path: str | Path) -> Iterator[None]:
    """Send the job's lines and progress to `path`; end with exit code 1 and one clear line on a user's error."""
    with _Log(path) as stream:
        handler = logging.StreamHandler(stream)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            yield
        except KeyboardInterrupt:
            _stop(stream, f"told to stop. {GO_ON}")
        except Damaged as error:
            _stop(stream, _make_room_for_another(error))
        except AtlasError as error:
            _stop(stream, str(error))
        except Exception as error:
            if line := _line(error):
                _stop(stream, line)
            traceback.print_exc(file=stream)
            raise
        finally:
            logger.removeHandler(handler)


def in_job() -> bool:
    """Does this process do a job of the workflow, whose log is open, and not somebody's own work?"""
    return any(isinstance(getattr(handler, "stream", None), _Log) for handler in logger.handlers)


def _line(error: Exception) -> str | None:
    """What to tell of an error of the machine, which a user can mend; None for a defect of ours."""
    in_rust = IN_RUST.search(str(error))
    number = error.errno if isinstance(error, OSError) else int(in_rust[1]) if in_rust else None
    if number == errno.ENOMEM or _is_out_of_memory(error):
        return f"out of memory ({reason(error)}). {LARGER}"
    return _of_disk(number, getattr(error, "filename", None)) if number in DISK_ERRORS else None


def _of_disk(number: int, file: str | None) -> str:
    return f"{file or 'output'}: {DISK_ERRORS[number]}. Nothing is lost; mend it and run the same command again."


def _make_room_for_another(damaged: Damaged) -> str:
    """Rename the damaged file, if that may be, so that the next run makes it again; what to tell."""
    try:
        aside = set_aside(damaged.path)
    except OSError:  # read-only, or another job was faster
        return str(damaged)
    return f"{damaged.path}: {damaged.what}. It was renamed to {aside.name}; run again, and it will be rebuilt."


def _is_out_of_memory(error: Exception) -> bool:
    """Python's own and that of libraries; torch's of a GPU, and of a CPU, which has no class. This module imports no torch."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )


class _Log:
    """A job's log file. Lines that a full disk does not take are lost: the job's own error is what must be told."""

    def __init__(self, path: str | Path):
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            # Names of files need not be text. Closed by __exit__.
            self.file = open(path, "w", buffering=1, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
        except OSError as error:
            if error.errno not in DISK_ERRORS:
                raise
            _stop(io.StringIO(), _of_disk(error.errno, error.filename))

    def __enter__(self) -> "_Log":
        return self

    def __exit__(self, *_) -> None:
        with suppress(OSError):
            self.file.close()

    def write(self, text: str) -> None:
        with suppress(OSError):
            self.file.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            self.file.flush()


def _stop(stream, line: str) -> None:
    print(f"error: {line}", file=stream)
    print(f"error: {line}", file=sys.stderr)
    raise SystemExit(1)


def progress(total: int, unit: str, description: str, delay: float = 0) -> tqdm:
    """Progress bar in the job's log: done, rate and time left, a new line every few seconds.

    Use as a context manager and call `.update(n)`. Without a job log it draws on stderr. delay: seconds before it is shown.
    """
    stream = next((h.stream for h in logger.handlers if isinstance(h, logging.StreamHandler)), sys.stderr)
    in_file = stream is not sys.stderr
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        unit_scale=True,
        delay=delay,
        file=_Lines(stream) if in_file else stream,
        mininterval=5.0 if in_file else 0.5,
        dynamic_ncols=not in_file,
        ncols=100 if in_file else None,
    )


class _Lines:
    """A stream on which tqdm's redrawn bar becomes one line per redraw."""

    def __init__(self, stream):
        self.stream = stream

    def write(self, text: str) -> None:
        text = text.strip("\r\n ")
        if text:
            self.stream.write(text + "\n")

    def flush(self) -> None:
        self.stream.flush()
