"""Trainers of the table of claims: our training loop on a store, with what a paper or another library changes in it.

Every trainer gives an SAE on raw activations, so that all are measured by the same code. What all share, and take from
sae_atlas: initial directions, normaliser, Adam with unit decoder rows, schedules, the controller of lambda.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from benchmarks.real import Real
from sae_atlas.activations.store import Normaliser, Store, open_store
from sae_atlas.config.read import complete_recipe
from sae_atlas.kernels import cpu, reference
from sae_atlas.kernels.measured import Control, Weights
from sae_atlas.publish.formats.saelens import both_signs
from sae_atlas.saes import architecture, batch_topk, checkpoint, jumprelu, topk
from sae_atlas.saes.parts import Loss, pre_activations, reconstruct, squared_error
from sae_atlas.saes.sae import Sae
from sae_atlas.training.interruption import Interruption
from sae_atlas.training.recipe import L1, Recipe
from sae_atlas.training.state import initial_state
from sae_atlas.training.train import StoreSource
from sae_atlas.training.window import Window

CPU = torch.device("cpu")


class Rows(StoreSource):
    """The rows of a store, each batch changed by `change`."""

    def __init__(self, reader: Store, batch: int, change: Callable[[Tensor], Tensor]):
        super().__init__(reader, reader.rows, batch, CPU)
        self.change = change

    def batches(self, done: int) -> Iterator[Tensor]:
        return Changed(super().batches(done), self.change)


class Changed:
    def __init__(self, batches, change: Callable[[Tensor], Tensor]):
        self.batches, self.change = batches, change

    def __next__(self) -> Tensor:
        return self.change(next(self.batches))

    @property
    def waited(self) -> float:
        return self.batches.waited


class Scheduled(Window):
    """A window in which something else than the learning rate follows a schedule: before every step change(window, progress)
    is told how much of the steps is done, 0 to 1.
    """

    change: Callable[[Window, float], None] | None = None

    def _step(self, rows: Tensor, interruption: Interruption) -> None:
        if self.change:
            self.change(self, self.done / self.steps)
        super()._step(rows, interruption)


def carried(
    real: Real,
    values: dict,
    prepare: Callable[[Window], None] = lambda window: None,
    whitened: "Whitening | None" = None,
) -> Window:
    """The window after one epoch of the layer's store. values: the recipe's keys; prepare: what is other than usual."""
    recipe, reader = Recipe.from_dict(complete_recipe(values)), open_store(real.store())
    source, read = StoreSource(reader, reader.rows, recipe.batch, CPU), reader.input
    if whitened:
        source, read = Rows(reader, recipe.batch, whitened), whitened.normaliser(reader.input)
    state = initial_state(recipe, read, real.layer)
    window = Scheduled(recipe, source, state, 0, real.tokens, real.tokens, 1, None, "float32")
    prepare(window)
    with Interruption(real.folder / "claim.resume") as interruption:
        window.run(interruption)
    return window


def sae_of(window: Window, weights: Weights, threshold: Tensor | None, values: dict) -> Sae:
    """On raw activations of weights in scaled space."""
    state = window.state
    model_state = checkpoint.fold(weights, threshold, state.mean, state.scale)
    return Sae(model_state, {"recipe": complete_recipe(values), "tokens": window.stop})


def plain(real: Real, values: dict) -> Sae:
    """Ours as it is."""
    window = carried(real, values)
    module, state = architecture(values["architecture"]), window.state
    inferred = (
        module.inference(state.weights, state.smallest) if hasattr(module, "inference") else (state.weights, None)
    )
    return sae_of(window, *inferred, values)


# Covariance whitening (arXiv 2511.13981; SAELens' `covariance_whitening`).


class Whitening:
    """z = (x - mean) M with M = E diag(variances + shrink mean(variances))^(-1/2): directions of equal variance.

    shrink: of SAELens an absolute 1e-3, which is next to nothing where activations are large; larger ones whiten less.
    """

    def __init__(self, store: Store, batch: int, shrink: float):
        count, total, outer = 0, torch.zeros(store.d_in).double(), torch.zeros(store.d_in, store.d_in).double()
        for rows in store.batches(batch):
            x = torch.from_numpy(rows).double()
            count, total, outer = count + len(x), total + x.sum(0), outer + x.T @ x
        self.mean = total / count
        variances, directions = torch.linalg.eigh(outer / count - self.mean.outer(self.mean))
        variances = variances.clamp(min=0)
        raised = variances + shrink * variances.mean()
        self.matrix, self.inverse = directions * raised.rsqrt(), raised.sqrt()[:, None] * directions.T
        self.spread = float((variances / raised).sum())  # E||z||^2

    def __call__(self, x: Tensor) -> Tensor:
        return (x - self.mean.float()) @ self.matrix.float()

    def normaliser(self, raw: Normaliser) -> Normaliser:
        """Of the whitened rows."""
        median = self(torch.from_numpy(raw.geometric_median)).numpy()
        return Normaliser(np.zeros_like(raw.mean), self.spread**-0.5, median)

    def unfolded(self, model_state: dict[str, Tensor]) -> dict[str, Tensor]:
        """`model_state` on raw activations of one on whitened ones, decoder rows of norm 1 again."""
        state = {name: tensor.double() for name, tensor in model_state.items()}
        decoder = state["decoder.weight"].T @ self.inverse
        norms = decoder.norm(dim=1)
        b_dec = self.mean + (state["b_pre"] + state["decoder.bias"]) @ self.inverse
        encoder = state["encoder.weight"] @ self.matrix.T
        return checkpoint.model_state(
            encoder * norms[:, None], state["encoder.bias"] * norms, decoder / norms[:, None], b_dec,
            state["threshold"] * norms,
        )  # fmt: skip


def whitened(real: Real, values: dict, shrink: float) -> Sae:
    """BatchTopK on whitened activations, its error measured there; folded into the weights."""
    whitening = Whitening(open_store(real.store()), values["batch"], shrink)
    window = carried(real, values, whitened=whitening)
    sae = sae_of(window, *batch_topk.inference(window.state.weights, window.state.smallest), values)
    names = {"encoder.weight": sae.W_enc.T, "encoder.bias": sae.b_enc, "decoder.weight": sae.W_dec.T}
    names |= {"b_pre": sae.b_dec, "decoder.bias": torch.zeros_like(sae.b_dec), "threshold": sae.threshold}
    return Sae(whitening.unfolded(names), sae.config)


# k-decay (sparsify's `k_decay_steps`).


def decaying(real: Real, values: dict, start: int, over: float) -> Sae:
    """BatchTopK whose k falls linearly from `start` to the recipe's over the first `over` of the steps."""
    end = values["k"]

    def change(window: Window, progress: float) -> None:
        k = end if progress >= over else round(start + (end - start) * progress / over)
        window.recipe = replace(window.recipe, k=k)

    window = carried(real, values, lambda window: setattr(window, "change", change))
    return sae_of(window, *batch_topk.inference(window.state.weights, window.state.smallest), values)


# AbsTopK (arXiv 2510.00404): the k latents of the largest magnitude, with their sign.


def of_either_sign(real: Real, values: dict) -> Sae:
    """TopK or BatchTopK of the latents and their negatives. The SAE has both halves, and they count as one latent."""
    module = {"topk": topk, "batch_topk": batch_topk}[values["architecture"]]

    def gradients(_, *arguments):
        return signed_gradients(module, *arguments)

    window = carried(real, values, lambda window: setattr(window, "backend", _backend(gradients)))
    doubled = window.state.weights | both_signs(window.state.weights)
    inferred = (doubled, None) if module is topk else module.inference(doubled, window.state.smallest)
    return sae_of(window, *inferred, values)


def signed_gradients(module, weights: Weights, x: Tensor, recipe, control: Control):
    """The step of `module` with twice the latents, whose gradients are added with their signs."""
    control = replace(control, dead=control.dead.repeat(2))
    grads, measured = cpu.gradients(module, weights | both_signs(weights), x, recipe, control)
    halves = {name: grads[name].chunk(2) for name in ("W_enc", "b_enc", "W_dec")}
    tied = {name: positive - negative for name, (positive, negative) in halves.items()}
    return grads | tied, replace(measured, fired=measured.fired.view(2, -1).any(0))


def _backend(gradients: Callable) -> SimpleNamespace:
    """The CPU's with other gradients."""
    rest = {"update": cpu.update, "compiled": cpu.compiled, "ASYNCHRONOUS": False}
    return SimpleNamespace(gradients=gradients, **rest)


def _by_autograd(module, window: Window) -> None:
    """Let the window take the gradients of a module that has a loss alone."""

    def gradients(_, *arguments):
        grads, measured = reference.gradients(module, *arguments)
        return grads, measured.plain()

    window.backend = _backend(gradients)


# p-annealing (arXiv 2408.00113; dictionary_learning's PAnnealTrainer), which came in as `l1.anneal_to`.


def annealed(real: Real, values: dict, p_end: float) -> Sae:
    """The recipe's controller keeps the L0, where theirs keeps the size of the penalty."""
    return plain(real, values | {"l1": values["l1"] | {"anneal_to": p_end}})


# JumpReLU with a tanh penalty and a pre-activation loss (Anthropic, Circuits Updates, January 2025; SAELens' `tanh`).


def with_tanh(real: Real, values: dict, scale: float, pre_act: float) -> Sae:
    """scale: of tanh(scale f_j ||W_dec_j||), where E||x||^2 is 1. pre_act: weight of sum_j (threshold_j - z_j)+ ||W_dec_j||.

    lambda is steered to the L0 by the controller; the pseudo-derivative reaches the encoder, too.
    """

    def prepare(window: Window) -> None:
        _by_autograd(Tanh(scale, pre_act), window)
        window.recipe = replace(window.recipe, l1=L1(target_l0=window.recipe.jumprelu.target_l0))

    window = carried(real, values, prepare)
    return sae_of(window, *jumprelu.inference(window.state.weights, window.state.smallest), values)


class _Jump(torch.autograd.Function):
    """z where z > threshold, else 0, with the pseudo-derivative for both."""

    @staticmethod
    def forward(ctx, z: Tensor, threshold: Tensor, bandwidth: float):
        ctx.save_for_backward(z, threshold)
        ctx.bandwidth = bandwidth
        return z * ((z > threshold) & (z > 0))

    @staticmethod
    def backward(ctx, gradient: Tensor):
        z, threshold = ctx.saved_tensors
        near = ((z - threshold).abs() < ctx.bandwidth / 2) * (threshold / ctx.bandwidth) * gradient
        return gradient * ((z > threshold) & (z > 0)) + near, -near.sum(0), None


class Tanh:
    def __init__(self, scale: float, pre_act: float):
        self.scale, self.pre_act = scale, pre_act

    def loss(self, weights: Weights, x: Tensor, recipe, control: Control) -> Loss:
        z = pre_activations(weights, x, control)
        latents = _Jump.apply(z, weights["threshold"], recipe.jumprelu.bandwidth)
        rebuilt = reconstruct(weights, x, latents)
        reconstruction = squared_error(x, rebuilt, control)
        sparsity = control.penalty * (self.scale * latents).tanh().sum(1).mean()
        below = self.pre_act * (weights["threshold"] - z).relu().sum(1).mean()
        return Loss(reconstruction + sparsity + below, reconstruction, sparsity, latents, rebuilt)
