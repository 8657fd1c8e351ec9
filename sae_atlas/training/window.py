"""The loop over a window's steps and what it carries, wherever its batches come from."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from sae_atlas.io.errors import AtlasError
from sae_atlas.io.log import logger, progress
from sae_atlas.kernels import backend_for
from sae_atlas.kernels.measured import Control
from sae_atlas.saes import architecture
from sae_atlas.training import controller
from sae_atlas.training.curve import MOST_ROWS, Curve
from sae_atlas.training.interruption import Interruption
from sae_atlas.training.recipe import Recipe
from sae_atlas.training.schedule import annealed, decayed, warmed_up
from sae_atlas.training.state import State, initial_penalty

ENTRY_CAPACITY = (
    4.0  # of the buffers while the host runs ahead, as a multiple of the active entries of the last known step
)
SMALLEST_RATE = 1e-3  # weight of the newest step in BatchTopK's threshold (EMA 0.999), more in the first 10,000 steps


class Source:
    """Where a window's batches come from: train.StoreSource, finetune.PassSource."""

    path: Path  # named in errors
    kind: str  # what a step waits for, in words
    steps: int
    runs_ahead = True  # False where the host reads numbers of every step
    columns: tuple[str, ...] = ()  # of the curve, beside those of every window

    def batches(self, done: int) -> Iterator[Tensor]:
        """Raw rows from step number `done` (from 0) on, as float32 on the device that trains: [batch, d_in], of a transcoder
        [batch, d_in + d_out]. The iterator's `waited` are the seconds that steps waited for it.
        """
        raise NotImplementedError

    def pull(self, state: State) -> Callable[[Tensor], Tensor] | None:
        """Control.pull for the batch that was given last."""
        return None

    def measured(self) -> tuple[float, ...]:
        """Values of `columns` on that batch, after its step."""
        return ()


class Window:
    """The loop over one window's batches and what it carries.

    On a GPU the host does not wait for a step: it runs ahead to the next row of the curve and looks only there. If a step
    on the way was not finite, or had made too little room for its entries, all since the last row are done again one by one.
    """

    def __init__(
        self, recipe: Recipe, source: Source, state: State, start: int, stop: int, total: int | None, threads: int,
        watch: Callable[[dict], None] | None, products: str,
    ):  # fmt: skip
        """start, stop, total, watch, products: as `train` has them."""
        self.recipe, self.source, self.state, self.steps = recipe, source, state, source.steps
        self.curve = Curve(every=math.ceil(self.steps / MOST_ROWS), more=source.columns)
        self.start, self.stop, self.total, self.watch = start, stop, total, watch
        self.done = 0  # steps of this window
        self.dense = 0  # of those done by this process, how many took the dense path
        self.device, self.architecture = state.mean.device, architecture(recipe.architecture)
        self.backend = backend_for(threads, self.device.type)
        self.products = "float32" if getattr(self.architecture, "BY_AUTOGRAD_ON_GPU", False) else products
        self.dense_above = self.backend.dense_above(self.architecture, len(state.mean))
        self.known: float | None = None  # while running ahead: density at the last look
        self.one_by_one = 0  # steps up to this one are waited for
        self.entry_capacity, self.dead_capacity = ENTRY_CAPACITY, 0
        self.waited = 0.0  # seconds, for the store
        d_sae, d_out = state.weights["W_dec"].shape
        scale = state.scale if state.target_scale is None else state.target_scale
        self.first_penalty = initial_penalty(recipe, d_sae, d_out, scale)

    def go_on_from(self, saved: dict | None) -> None:
        if saved:
            self.state = State(**saved["state"]).to(self.device)
            self.curve, self.done = Curve.from_dict(saved["curve"], self.device), saved["done"]
            logger.info("going on after step %d of %d", self.done, self.steps)

    def to_dict(self) -> dict:
        return {"state": self.state.to_dict(), "curve": self.curve.to_dict(), "done": self.done}

    def run(self, interruption: Interruption) -> None:
        began, before_all = time.perf_counter(), self.state.tokens
        self._read_on()
        self.one_by_one = self.done + 1  # the first step tells how many entries to make room for
        with progress(self.steps * self.recipe.batch, "token", "training") as bar:
            bar.update(self.done * self.recipe.batch)
            while self.done < self.steps:
                before = self.done
                if self.source.runs_ahead and self.backend.ASYNCHRONOUS and self.done >= self.one_by_one:
                    self._run_ahead(interruption)
                else:
                    self._step(next(self.batches), interruption)
                    self._close_row_if_due()
                bar.update((self.done - before) * self.recipe.batch)
                interruption.check(self.to_dict)
        seconds = max(time.perf_counter() - began, 1e-9)
        tokens = self.state.tokens - before_all
        logger.info("%d tokens in %.1f s: %.0f tokens/s", tokens, seconds, tokens / seconds)
        share = 100 * (self.waited + self.batches.waited) / seconds
        logger.info("%.1f%% of that waiting for the %s", share, self.source.kind)
        if self.dense:
            share = 100 * self.dense_above
            logger.info("%d steps were dense: more than %.0f%% of the latents active before them", self.dense, share)
        if self.backend.compiled():
            logger.info("the kernels were compiled for this machine; the next job finds them in the cache")

    def _read_on(self) -> None:
        self.batches = self.source.batches(self.done)

    def _run_ahead(self, interruption: Interruption) -> None:
        """Steps up to the next row of the curve, none of them waited for; all of them or none."""
        before = (
            self.state.to(self.device, copy=True),
            replace(self.curve, rows=[*self.curve.rows]),
            self.done,
            self.dense,
        )
        stop = min(self.steps, self.done + self.curve.every - self.curve.count)
        soon_dead = self.state.since_fired >= self.recipe.dead_after - (stop - self.done) * self.recipe.batch
        self.known, self.dead_capacity = self.state.density, int(soon_dead.sum())
        while self.done < stop and interruption.told is None:
            self._step(next(self.batches), interruption)
        self.known = None
        if self.curve.finite:
            self.state.settle()
            self._close_row_if_due()
            return
        logger.info(
            "steps %d to %d again, one by one: one was not finite or had too little room", before[2] + 1, self.done
        )
        self.one_by_one, self.entry_capacity = self.done, 2 * self.entry_capacity
        self.state, self.curve, self.done, self.dense = before
        self.waited += self.batches.waited
        self._read_on()

    def _step(self, rows: Tensor, interruption: Interruption) -> None:
        recipe, state, ahead = self.recipe, self.state, self.known is not None
        x, target = state.scaled(rows)
        position = self.start + (self.stop - self.start) * self.done / self.steps
        rate = (
            recipe.learning_rate * warmed_up(state.steps, recipe.warmup) * decayed(position, self.total, recipe.decay)
        )
        penalty = state.penalty * warmed_up(state.steps, recipe.sparsity_warmup)
        dead = state.since_fired >= recipe.dead_after
        density, capacity = (self.known, self.entry_capacity) if ahead else (state.density, None)
        power = annealed(position, self.total, recipe.l1.anneal_to)
        about = (penalty, target, dead, state.smallest, density, capacity, self.dead_capacity, self.products)
        control = Control(*about, pull=self.source.pull(state), power=power)
        self.dense += control.pull is None and density > self.dense_above
        grads, measured = self.backend.gradients(self.architecture, state.weights, x, recipe, control)
        measured = measured.on_device() if ahead else measured.plain()
        norm = math.nan
        if ahead or math.isfinite(measured.loss):
            moments = (state.first, state.second)
            norm = self.backend.update(state.weights, grads, moments, recipe, state.steps + 1, rate)
        if not ahead:
            norm = float(norm)
            if not math.isfinite(norm):
                state_file = interruption.keep(self.to_dict())
                raise AtlasError(
                    f"{self.source.path}: loss {measured.loss}, gradient norm {norm} at step {state.steps + 1} (token "
                    f"{int(position)}). Lower learning_rate or check the {self.source.kind}; the state before that step is in "
                    f"{state_file}"
                )
        self.done += 1
        state.steps += 1
        state.tokens += len(rows)
        state.density = measured.l0 / len(state.since_fired)
        state.since_fired += len(rows)
        state.since_fired.masked_fill_(measured.fired, 0)
        newest = max(SMALLEST_RATE, min(1.0, 10 / state.steps))
        state.smallest = state.smallest + newest * (measured.smallest - state.smallest)
        self.curve.add(measured, norm, self.source.measured())
        self.last = {"lambda": penalty, "learning_rate": rate}
        self._adapt(measured.l0)

    def _close_row_if_due(self) -> None:
        if self.curve.due or self.done == self.steps:
            now = {
                "step": self.state.steps,
                "tokens": round(self.start + (self.stop - self.start) * self.done / self.steps),
                "lambda": float(self.last["lambda"]),
                "learning_rate": self.last["learning_rate"],
                "dead": int((self.state.since_fired >= self.recipe.dead_after).sum()),
            }
            self.curve.close(now)
            if self.watch:
                self.watch(self.curve.rows[-1])

    def _adapt(self, l0: float | Tensor) -> None:
        target, state = self.recipe.l1.target_l0, self.state
        if target is None:
            return
        before, state.smoothed_l0 = state.smoothed_l0, controller.smooth(state.smoothed_l0, l0)
        if state.steps >= self.recipe.sparsity_warmup:
            state.penalty = controller.adapt(state.penalty, self.first_penalty, before, state.smoothed_l0, target)
