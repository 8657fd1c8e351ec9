"""Train one SAE on one window of activations: previous resume file + store -> checkpoint, resume file, curve."""

from collections.abc import Callable
from pathlib import Path

import torch

from sae_atlas.activations.store import Store, open_store
from sae_atlas.io.devices import name_of, resolve
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.log import logger
from sae_atlas.io.provenance import current_record
from sae_atlas.kernels.threads import free_buffers
from sae_atlas.saes.checkpoint import save_tensors
from sae_atlas.training.interruption import Interruption
from sae_atlas.training.recipe import Recipe, contradictions
from sae_atlas.training.result import save_sae
from sae_atlas.training.start import begin_at
from sae_atlas.training.state import State, initial_state, load_state
from sae_atlas.training.transfer import Batches
from sae_atlas.training.window import Source, Window


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
    store_stop: int | None = None,
) -> None:
    """Carry the SAE of `previous` (a resume file; None: a new one) over the store's window of tokens [start, stop).

    start_from: a checkpoint whose weights a new one begins at, in place of random directions.
    recipe: plain values, complete (config.read.complete_recipe). total: tokens of the whole run where the learning rate's
    decay or an annealed penalty reaches this window, else None. watch: told every new row of the curve. device: auto, cpu or
    cuda; gpu_products: arithmetic of matrix products on a GPU, bfloat16 or float32. Any number of threads gives the same bits.
    A job of the workflow keeps its state beside `resume` on SIGTERM and ends with exit code interruption.EXIT_CODE; the same
    job goes on from there. store_stop: where the store's window ends, if that is beyond `stop`; then its first rows are read.

    Raises AtlasError for damaged or wrong inputs, a store smaller than a batch, a loss or gradient that is not finite.
    """
    chosen = Recipe.from_dict(recipe)
    reader = open_store(store)
    if wrong := list(contradictions(recipe, reader.d_in)):  # the width of a module path or an array is known only here
        raise AtlasError("\n".join(f"recipe.{line}" for line in wrong))
    on = resolve(device)
    state = _begin(chosen, reader, previous, start_from).to(on)
    rows = reader.rows if store_stop is None else reader.rows * (stop - start) // (store_stop - start)
    source = StoreSource(reader, rows, chosen.batch, on)
    if not source.steps:
        raise AtlasError(f"{store}: {rows} rows are less than a batch ({chosen.batch}); lower the recipe's batch")
    window = Window(chosen, source, state, start, stop, total, threads, watch, gpu_products)
    logger.info(
        "%s, %d -> %d latents, %d steps of %d tokens, %s, %d thread(s)",
        chosen.architecture, reader.d_in, chosen.d_sae(reader.d_in), source.steps, chosen.batch, name_of(on), threads,
    )  # fmt: skip
    with Interruption(resume) as interruption:
        window.go_on_from(interruption.saved)
        window.run(interruption)
        logger.info("%d rows beyond the last whole batch left out", source.left_out)
        free_buffers()  # what is saved is copied
        window.curve.write(curve)
        target = {"target": reader.attrs["target"]["site"]} if reader.target else {}
        save_sae(
            checkpoint, recipe, window, {key: reader.attrs[key] for key in ("base_model", "site", "layer")} | target
        )
        save_tensors(resume, {"state": window.state.to_dict(), "record": current_record()})


class StoreSource(Source):
    """The rows of a store in stored order, whole batches only."""

    kind = "store"

    def __init__(self, reader: Store, rows: int, batch: int, device: torch.device):
        """rows: the first of them, which are read."""
        self.reader, self.batch, self.device, self.path = reader, batch, device, reader.path
        self.steps, self.left_out = divmod(rows, batch)

    def batches(self, done: int) -> Batches:
        return Batches(self.reader, self.batch, done * self.batch, self.device)


def _begin(recipe: Recipe, reader, previous: str | Path | None, start_from: str | Path | None) -> State:
    if previous is None:
        state = initial_state(recipe, reader.input, reader.attrs["layer"], reader.target)
        return state if start_from is None else begin_at(state, start_from, recipe)
    return load_state(previous, recipe, reader.d_in)
