"""Interruptions: a job that is told to stop keeps its state; the same job goes on from there, to the same bits."""

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import remove
from sae_atlas.io.log import logger
from sae_atlas.io.provenance import current_record
from sae_atlas.saes.checkpoint import load_tensors, save_tensors

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: try again
SAVE_EVERY = 600.0  # seconds between saves without being told, against kills that give no notice


class Interruption:
    """Context of a training loop. SIGTERM and SIGINT take effect at the next `check`, after the step in hand.

    The state lies beside `resume`, is used only if the identity of the job at work is the same, and goes when the job is
    done. Outside a job nothing tells what a state belongs to: none is kept, and signals are the caller's own.
    """

    def __init__(self, resume: str | Path):
        resume, record = Path(resume), current_record()
        self.path = resume.with_name(f".{resume.name}.interrupted")
        self.identity = record["identity"] if record else None
        self.told: int | None = None
        self.saved: dict | None = None

    def __enter__(self) -> "Interruption":
        self.handlers, self.last_save = {}, time.monotonic()
        if self.identity is None:
            return self
        self.saved = self._load()
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            self.handlers = {number: signal.signal(number, self._tell) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, kind, *_) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        if kind is None and self.identity is not None:
            remove(self.path)

    def check(self, state: Callable[[], dict]) -> None:
        """Call between steps. Raises SystemExit(EXIT_CODE) after saving if the job was told to stop."""
        if self.told is not None:
            self.keep(state())
            logger.info(
                "told to stop (signal %d): the state is in %s; the same job goes on from there", self.told, self.path
            )
            raise SystemExit(EXIT_CODE)
        if self.identity is not None and time.monotonic() - self.last_save > SAVE_EVERY:
            self.keep(state())
            self.last_save = time.monotonic()

    def keep(self, state: dict) -> Path:
        save_tensors(self.path, {"identity": self.identity, "state": state})
        return self.path

    def _tell(self, number: int, _frame) -> None:
        self.told = number

    def _load(self) -> dict | None:
        if not self.path.exists():
            return None
        try:
            saved = load_tensors(self.path)
        except AtlasError as error:
            logger.info("%s Starting the window again.", error)
            return None
        return saved["state"] if saved["identity"] == self.identity else None
