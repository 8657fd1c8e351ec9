"""Training curves to an experiment tracker the user already runs, while they grow. Off by default; no number depends on it.

One interface for all: accelerate's trackers (accelerate.tracking). It is imported only where a tracker is asked for.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sae_atlas.io.errors import AtlasError, reason
from sae_atlas.io.log import logger

PROJECT = "sae-atlas"  # experiment of MLflow, project of Weights & Biases


@contextmanager
def tracked(tracker: str | None, run: str, window: str, folder: str | Path) -> Iterator[Callable[[dict], None] | None]:
    """Yield a function that sends a row of the curve (training.curve) to `tracker`; None where there is no tracker.

    run: the SAE (`topk-32/layer07`). window: its snapshot; the windows of a run are one curve in TensorBoard and Weights &
    Biases, and a run each in MLflow. folder: where TensorBoard's files go, under the name of the run.

    Raises AtlasError if the tracker cannot be opened. Once open, its failures end the tracking, not the training.
    """
    if tracker is None:
        yield None
        return
    opened = _open(tracker, run, window, Path(folder))
    try:
        yield _Sender(opened, tracker)
    finally:
        try:
            opened.finish()
        except Exception as error:  # any library's; the SAE is what matters
            logger.warning("%s: not closed (%s)", tracker, reason(error))


class _Sender:
    """Sends rows until the tracker fails."""

    def __init__(self, opened, name: str):
        self.opened, self.name, self.failed = opened, name, False

    def __call__(self, row: dict) -> None:
        if self.failed:
            return
        try:
            self.opened.log({key: value for key, value in row.items() if key != "tokens"}, step=row["tokens"])
        except Exception as error:  # a server that went away is no reason to lose a training
            self.failed = True
            logger.warning("%s: no more rows are sent (%s); the curve is in results/curves", self.name, reason(error))


def _open(tracker: str, run: str, window: str, folder: Path):
    try:
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState(cpu=True)  # accelerate's log wants it
        kind, flat = LOGGER_TYPE_TO_CLASS[tracker], run.replace("/", "-")
        make = {
            "tensorboard": lambda: kind(run, folder),
            "mlflow": lambda: kind(PROJECT, run_name=f"{run}/{window}"),
            "wandb": lambda: kind(PROJECT, name=run, id=flat, resume="allow", dir=str(folder)),
        }
        opened = make[tracker]()
        opened.start()
    except ImportError as error:
        raise AtlasError(
            f"training.tracker: {tracker} needs {error.name or 'another package'}; pip install accelerate {tracker}, or "
            "remove the key"
        ) from error
    except Exception as error:  # whatever the tracker's own library raises
        raise AtlasError(
            f"training.tracker: {tracker} does not open ({reason(error)}); mend it or remove the key"
        ) from error
    return opened
