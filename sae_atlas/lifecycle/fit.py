"""Training of a language model on a corpus: next-token loss, validation on held-out text, best and last weights kept."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sae_atlas.corpus import Corpus
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.log import logger, progress
from sae_atlas.training.interruption import Interruption
from sae_atlas.training.learner import Learner, read_contexts
from sae_atlas.training.schedule import cosine

LAST_RATE = 0.1  # the cosine ends at this share of the learning rate


@dataclass(frozen=True)
class Fitted:
    """The result of a training. Losses in nats per unmasked token; `curve` has a row per validation."""

    best: dict[str, Tensor]  # weights that were trained, at the best validation loss
    last: dict[str, Tensor]
    best_iteration: int  # steps until then
    best_val_loss: float
    iteration: int  # steps in all
    last_val_loss: float
    tokens: int  # read in all
    curve: list[dict]

    def reached(self, source: Corpus, text: str) -> dict:
        """Facts for export_meta.json and the model's card of its training on the corpus called `text`."""
        return {
            "iter": self.best_iteration,
            "best_val_loss": self.best_val_loss,
            "last_iter": self.iteration,
            "last_val_loss": self.last_val_loss,
            "tokens": self.tokens,
            "text": text,
            "context": source.context,
            "curve": self.curve,
        }


def fit(model: nn.Module, source: Corpus, settings: dict, seed: int, resume: Path) -> Fitted:
    """Train what requires a gradient in `model`, float32, in place.

    settings: config section `fit`. A step's batch may be read in several passes (`accumulation`); the loss is the mean over
    all its unmasked tokens either way. Contexts are read in the corpus' own order first, then in orders drawn from `seed`.
    The model stays in evaluation mode, without dropout, so nothing else is random. A job that is interrupted keeps its state
    beside `resume`; the same job continues from there, to the same bits on as many CPU threads.
    Raises AtlasError if the loss is not finite.
    """
    learner = Learner(model.eval(), settings["weight_decay"], settings["clip"])
    order = _Order(source, settings["batch"], seed)
    steps = order.steps(settings["tokens"])
    validations = settings["validations"]
    stops = {max(1, round(steps * number / validations)) for number in range(1, validations + 1)}
    warmup = min(settings["warmup"], steps - 1)
    step, losses, curve, best = 0, [], [], {"val_loss": float("inf")}
    with Interruption(resume) as interruption:
        if interruption.saved:
            step, losses, curve, best = (interruption.saved[key] for key in ("step", "losses", "curve", "best"))
            learner.load(interruption.saved["learner"])
            logger.info("goes on after step %d", step)
        with progress(steps, "steps", "training") as bar:
            bar.update(step)
            while step < steps:
                rate = settings["learning_rate"] * cosine(step, steps, warmup, LAST_RATE)
                parts = _losses(model, source, order.rows(step), settings["accumulation"])
                losses.append(learner.step(parts, rate))
                if not np.isfinite(losses[-1]):
                    raise AtlasError(f"fit: the loss is {losses[-1]} at step {step + 1}; lower fit.learning_rate")
                step += 1
                if step in stops:
                    val_loss = held_out_loss(model, source, settings["batch"] // settings["accumulation"])
                    if not np.isfinite(val_loss):
                        raise AtlasError(
                            f"fit: the held-out loss is {val_loss} after step {step}; lower fit.learning_rate"
                        )
                    curve.append({"step": step, "train_loss": float(np.mean(losses)), "val_loss": val_loss})
                    losses = []
                    logger.info("step %d of %d: train %.4f, held-out %.4f", step, steps, *list(curve[-1].values())[1:])
                    if val_loss < best["val_loss"]:
                        best = {"val_loss": val_loss, "step": step, "weights": learner.trained()}
                bar.update()
                interruption.check(partial(_state, step, losses, curve, best, learner))
        last = learner.trained()
    return Fitted(
        best=best["weights"],
        last=last,
        best_iteration=best["step"],
        best_val_loss=best["val_loss"],
        iteration=steps,
        last_val_loss=curve[-1]["val_loss"],
        tokens=order.tokens(steps),
        curve=curve,
    )


@torch.inference_mode()
def held_out_loss(model: nn.Module, source: Corpus, contexts: int) -> float:
    """Mean cross-entropy of every unmasked held-out token given those before it, in nats; `contexts` in a pass."""
    total = count = 0.0
    for first in range(0, source.held_out, contexts):
        tokens, mask = read_contexts(source, slice(first, min(first + contexts, source.held_out)), model.device)
        total += float(_summed(model, tokens, mask).double())
        count += int(mask[:, 1:].sum())
    return total / count


def _state(step: int, losses: list[float], curve: list[dict], best: dict, learner: Learner) -> dict:
    return {"step": step, "losses": losses, "curve": curve, "best": best, "learner": learner.state()}


def _losses(model: nn.Module, source: Corpus, rows: slice, passes: int) -> Iterator[Tensor]:
    """The batch's loss in as many parts as passes, which add up to it."""
    tokens, mask = read_contexts(source, rows, model.device)
    count = mask[:, 1:].sum()
    for part, known in zip(tokens.chunk(passes), mask.chunk(passes), strict=True):
        yield _summed(model, part, known) / count


def _summed(model: nn.Module, tokens: Tensor, mask: Tensor) -> Tensor:
    """Sum over unmasked tokens of -log p(token | those before it)."""
    logits = model(tokens, use_cache=False).logits[:, :-1]
    chosen = mask[:, 1:]
    return nn.functional.cross_entropy(logits[chosen].float(), tokens[:, 1:][chosen], reduction="sum")


class _Order:
    """Which contexts a step reads: consecutive ones, as the corpus is in a random order already."""

    def __init__(self, source: Corpus, batch: int, seed: int):
        self.first, contexts = source.held_out, source.tokens.shape[0] - source.held_out
        self.batch, self.seed, self.per_epoch = batch, seed, contexts // batch  # the rest of a batch is left out
        if not self.per_epoch:
            raise AtlasError(f"fit.batch: {batch} contexts, the corpus has {contexts} train contexts; lower it")
        whole = source.mask[self.first : self.first + self.per_epoch * batch][:, 1:]
        self.counts = whole.reshape(self.per_epoch, -1).sum(axis=1, dtype=np.int64)  # unmasked tokens of every batch
        self._epoch = lru_cache(1)(self._epoch)

    def rows(self, step: int) -> slice:
        epoch, index = divmod(step, self.per_epoch)
        first = self.first + int(self._epoch(epoch)[index]) * self.batch
        return slice(first, first + self.batch)

    def steps(self, tokens: int) -> int:
        """The fewest steps that read this many unmasked tokens."""
        epochs, rest = divmod(tokens, int(self.counts.sum()))
        reached = np.cumsum(self.counts[self._epoch(epochs)])
        return epochs * self.per_epoch + (int(np.searchsorted(reached, rest)) + 1 if rest else 0)

    def tokens(self, steps: int) -> int:
        """Unmasked tokens read in so many steps."""
        epochs, rest = divmod(steps, self.per_epoch)
        return epochs * int(self.counts.sum()) + int(self.counts[self._epoch(epochs)[:rest]].sum())

    def _epoch(self, epoch: int) -> np.ndarray:
        """Order of the batches: the corpus' own in the first epoch, then drawn from the seed."""
        every = np.arange(self.per_epoch)
        return np.random.default_rng([self.seed, epoch]).permutation(every) if epoch else every
