"""Train one SAE on one window of activations: previous resume file + store -> checkpoint, resume file, curve."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from sae_atlas.activations.store import open_store
from sae_atlas.io.devices import name_of, resolve
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.log import logger, progress
from sae_atlas.io.provenance import current_record
from sae_atlas.kernels import backend_for
from sae_atlas.kernels.measured import Control
from sae_atlas.kernels.threads import free_buffers
from sae_atlas.saes import architecture
from sae_atlas.saes import checkpoint as checkpoints
from sae_atlas.saes.architectures import uses
from sae_atlas.training import controller
from sae_atlas.training.curve import MOST_ROWS, Curve
from sae_atlas.training.interruption import Interruption
from sae_atlas.training.recipe import Recipe, contradictions
from sae_atlas.training.schedule import decayed, warmed_up
from sae_atlas.training.start import begin_at
from sae_atlas.training.state import State, initial_penalty, initial_state
from sae_atlas.training.transfer import Batches

ENTRY_CAPACITY = (
    4.0  # of the buffers while the host runs ahead, as a multiple of the active entries of the last known step
)
SMALLEST_RATE = 1e-3  # weight of the newest step in BatchTopK's threshold (EMA 0.999), more in the first 10,000 steps


def train(
    store: str | Path,
    recipe: dict,
    start: int,
    stop: int,
    total: int | None,
    checkpoint: str | Path,
    resume: str | Path,
    curve: str | Path,
    previous: str | Path | None = None,
    start_from: str | Path | None = None,
    threads: int = 1,
    watch: Callable[[dict], None] | None = None,
    device: str = "auto",
    gpu_products: str = "bfloat16",
) -> None:
    """Carry the SAE of `previous` (a resume file; None: a new one) over the store's window of tokens [start, stop).

    start_from: a checkpoint whose weights a new one begins at, in place of random directions.
    recipe: plain values, complete (config.read.complete_recipe). total: tokens of the whole run where the learning rate's
    decay reaches this window, else None. watch: told every new row of the curve. device: auto, cpu or cuda; gpu_products:
    arithmetic of matrix products on a GPU, bfloat16 or float32. Any number of threads gives the same bits. A job of the
    workflow keeps its state beside `resume` on SIGTERM and ends with exit code interruption.EXIT_CODE; the same job goes on
    from there.

    Raises AtlasError for damaged or wrong inputs, a store smaller than a batch, a loss or gradient that is not finite.
    """
    chosen = Recipe.from_dict(recipe)
    reader = open_store(store)
    if wrong := list(contradictions(recipe, reader.d_in)):  # the width of a module path or an array is known only here
        raise AtlasError("\n".join(f"recipe.{line}" for line in wrong))
    on = resolve(device)
    state = _begin(chosen, reader, previous, start_from).to(on)
    steps = reader.rows // chosen.batch
    if not steps:
        raise AtlasError(
            f"{store}: {reader.rows} rows are less than a batch ({chosen.batch}); lower the recipe's batch"
        )
    window = _Window(
        chosen,
        reader,
        state,
        Curve(every=math.ceil(steps / MOST_ROWS)),
        start,
        stop,
        total,
        threads,
        watch,
        gpu_products,
    )
    logger.info(
        "%s, %d -> %d latents, %d steps of %d tokens, %s, %d thread(s)",
        chosen.architecture, reader.d_in, chosen.d_sae(reader.d_in), steps, chosen.batch, name_of(on), threads,
    )  # fmt: skip
    with Interruption(resume) as interruption:
        window.go_on_from(interruption.saved)
        window.run(interruption)
        free_buffers()  # what is saved is copied
        window.curve.write(curve)
        _save_checkpoint(checkpoint, recipe, window)
        checkpoints.save_tensors(resume, {"state": window.state.to_dict(), "record": current_record()})


class _Window:
    """The loop over one window's batches and what it carries.

    On a GPU the host does not wait for a step: it runs ahead to the next row of the curve and looks only there. If a step
    on the way was not finite, or had made too little room for its entries, all since the last row are done again one by one.
    """

    def __init__(
        self, recipe: Recipe, reader, state: State, curve: Curve, start: int, stop: int, total, threads: int, watch,
        products: str,
    ):  # fmt: skip
        self.recipe, self.reader, self.state, self.curve = recipe, reader, state, curve
        self.start, self.stop, self.total, self.watch = start, stop, total, watch
        self.steps = reader.rows // recipe.batch
        self.done = 0  # steps of this window
        self.dense = 0  # of those done by this process, how many took the dense path
        self.device, self.products = state.mean.device, products
        self.backend, self.architecture = backend_for(threads, self.device.type), architecture(recipe.architecture)
        self.dense_above = self.backend.dense_above(self.architecture, reader.d_in)
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
        began, first = time.perf_counter(), self.done
        self._read_on()
        self.one_by_one = self.done + 1  # the first step tells how many entries to make room for
        with progress(self.steps * self.recipe.batch, "token", "training") as bar:
            bar.update(self.done * self.recipe.batch)
            while self.done < self.steps:
                before = self.done
                if self.backend.ASYNCHRONOUS and self.done >= self.one_by_one:
                    self._run_ahead(interruption)
                else:
                    self._step(next(self.batches), interruption)
                    self._close_row_if_due()
                bar.update((self.done - before) * self.recipe.batch)
                interruption.check(self.to_dict)
        seconds = max(time.perf_counter() - began, 1e-9)
        tokens = (self.steps - first) * self.recipe.batch
        logger.info("%d tokens in %.1f s: %.0f tokens/s", tokens, seconds, tokens / seconds)
        logger.info("%.1f%% of that waiting for the store", 100 * (self.waited + self.batches.waited) / seconds)
        if self.dense:
            share = 100 * self.dense_above
            logger.info("%d steps were dense: more than %.0f%% of the latents active before them", self.dense, share)
        if self.backend.compiled():
            logger.info("the kernels were compiled for this machine; the next job finds them in the cache")
        logger.info("%d rows beyond the last whole batch left out", self.reader.rows % self.recipe.batch)

    def _read_on(self) -> None:
        self.batches = Batches(self.reader, self.recipe.batch, self.done * self.recipe.batch, self.device)

    def _run_ahead(self, interruption: Interruption) -> None:
        """Steps up to the next row of the curve, none of them waited for; all of them or none."""
        kept = (
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
            "steps %d to %d again, one by one: one was not finite or had too little room", kept[2] + 1, self.done
        )
        self.one_by_one, self.entry_capacity = self.done, 2 * self.entry_capacity
        self.state, self.curve, self.done, self.dense = kept
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
        self.dense += density > self.dense_above
        control = Control(penalty, target, dead, state.smallest, density, capacity, self.dead_capacity, self.products)
        grads, measured = self.backend.gradients(self.architecture, state.weights, x, recipe, control)
        measured = measured.on_device() if ahead else measured.plain()
        norm = math.nan
        if ahead or math.isfinite(measured.loss):
            moments = (state.first, state.second)
            norm = self.backend.update(state.weights, grads, moments, recipe, state.steps + 1, rate)
        if not ahead:
            norm = float(norm)
            if not math.isfinite(norm):
                kept = interruption.keep(self.to_dict())
                raise AtlasError(
                    f"{self.reader.path}: loss {measured.loss}, gradient norm {norm} at step {state.steps + 1} (token "
                    f"{int(position)}). Lower learning_rate or check the store; the state before that step is in {kept}"
                )
        self.done += 1
        state.steps += 1
        state.tokens += len(rows)
        state.density = measured.l0 / len(state.since_fired)
        state.since_fired += len(rows)
        state.since_fired.masked_fill_(measured.fired, 0)
        newest = max(SMALLEST_RATE, min(1.0, 10 / state.steps))
        state.smallest = state.smallest + newest * (measured.smallest - state.smallest)
        self.curve.add(measured, norm)
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


def _begin(recipe: Recipe, reader, previous: str | Path | None, start_from: str | Path | None) -> State:
    if previous is None:
        state = initial_state(recipe, reader.input, reader.attrs["layer"], reader.target)
        return state if start_from is None else begin_at(state, start_from, recipe)
    saved = checkpoints.load_tensors(previous)
    state = State(**saved["state"])
    if len(state.mean) != reader.d_in or len(state.since_fired) != recipe.d_sae(reader.d_in):
        raise AtlasError(f"{previous}: an SAE of other sizes than recipe and store ask for. Delete it and rerun.")
    return state


def _save_checkpoint(path: str | Path, values: dict, window: _Window) -> None:
    recipe, state, reader, rows = window.recipe, window.state.to("cpu"), window.reader, window.curve.rows
    module = architecture(recipe.architecture)
    weights, threshold = state.weights, None
    if hasattr(module, "inference"):
        weights, threshold = module.inference(state.weights, state.smallest)
    config = {
        "recipe": values,
        "d_in": reader.d_in,
        "d_sae": recipe.d_sae(reader.d_in),
        "tokens": window.stop,
        "normaliser": {"mean": state.mean, "scale": state.scale},
        "activations": {key: reader.attrs[key] for key in ("base_model", "site", "layer")},
        "device": name_of(window.device),
        "record": current_record(),
    }
    if window.device.type == "cuda":
        config["gpu_products"] = window.products
    if uses(recipe.architecture, "l1"):
        config["lambda"] = {
            "stated": recipe.l1.coefficient,
            "convention": recipe.l1.convention,
            "canonical": window.first_penalty,
            "last": state.penalty,  # canonical; another than the first where a target L0 moved it
        }
    stats = {"steps": state.steps, "trained_tokens": state.tokens, **rows[-1]}
    if recipe.l1.target_l0 is not None:
        settled = rows[-max(1, len(rows) // 10) :]
        l0 = sum(row["l0"] for row in settled) / len(settled)
        stats |= {"settled_l0": l0, "converged": abs(l0 / recipe.l1.target_l0 - 1) <= controller.CONVERGED}
    if state.target_mean is None:
        folded = checkpoints.fold(weights, threshold, state.mean, state.scale)
    else:
        config["activations"]["target"] = reader.attrs["target"]["site"]
        config["d_out"] = len(state.target_mean)
        config["normaliser"] |= {"target_mean": state.target_mean, "target_scale": state.target_scale}
        normalisers = (state.mean, state.scale), (state.target_mean, state.target_scale)
        folded = checkpoints.fold_transcoder(weights, threshold, *normalisers)
    checkpoints.save(path, folded, config, stats)
