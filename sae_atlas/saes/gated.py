"""Gated: one encoder decides what is active and another, a rescaled copy, how much (arXiv 2404.16014).

u = (x - b_dec) W_enc^T; gate pi = u + b_gate; f = [pi > 0] ReLU(exp(r_mag) u + b_enc). Loss: ||x - x_hat||^2
+ lambda sum_j ReLU(pi_j) + ||x - ReLU(pi) W_dec - b_dec||^2 with W_dec and b_dec held constant in the last term.
"""

import numpy as np
import torch
from torch import Tensor

from sae_atlas.kernels.loops import collect_above
from sae_atlas.kernels.measured import Control, Weights
from sae_atlas.saes.parts import Loss, reconstruct, squared_error


def extra_weights(recipe, d_sae: int) -> Weights:
    return {"b_gate": torch.zeros(d_sae), "r_mag": torch.zeros(d_sae)}


def loss(weights: Weights, x: Tensor, recipe, control: Control) -> Loss:
    """x [batch, d_in], scaled."""
    u = (x - weights["b_dec"]) @ weights["W_enc"].T
    gate = (u + weights["b_gate"]).relu()
    latents = (gate > 0) * (u * weights["r_mag"].exp() + weights["b_enc"]).relu()
    reconstruction = squared_error(x, reconstruct(weights, latents))
    sparsity = control.penalty * gate.sum(1).mean()
    constant = {name: weights[name].detach() for name in ("W_dec", "b_dec")}
    auxiliary = squared_error(x, reconstruct(constant, gate))
    return Loss(reconstruction + sparsity + auxiliary, reconstruction, sparsity, latents)


def sparse_gradients(step, weights: Weights, x: Tensor, recipe, control: Control):
    """The gradient of `loss` from the entries whose gate is open (step: sae_atlas/kernels/cpu.py)."""
    entries = step.encode(lambda z, *out: collect_above(z, z.dtype.type(0), *out), bias="b_gate")
    kind = entries.values.dtype.type
    of_entry = {name: weights[name].numpy()[entries.columns] for name in ("b_gate", "r_mag", "b_enc")}
    u, gain = entries.values - of_entry["b_gate"], np.exp(of_entry["r_mag"])
    latents = np.maximum(gain * u + of_entry["b_enc"], kind(0))
    by_gate = step.decode(entries, entries.values)
    to_gate = by_gate.dots * kind(2 / step.rows) + kind(control.penalty / step.rows)
    decoded = step.decode(entries, latents)
    to_magnitude = np.where(latents > 0, decoded.dots * kind(2 / step.rows), kind(0))
    grads = step.accumulate(entries, decoded, latents, to_gate + to_magnitude * gain, 2 / step.rows)
    grads["b_enc"] = step.sum_by_latent(entries, to_magnitude)
    grads["b_gate"] = step.sum_by_latent(entries, to_gate)
    grads["r_mag"] = step.sum_by_latent(entries, to_magnitude * gain * u)
    sparsity = float(control.penalty / step.rows * entries.values.sum(dtype=np.float64))
    active = np.flatnonzero(latents > 0)
    return grads, step.measured(entries, active, decoded.squared_error, sparsity, by_gate.squared_error)


def inference(weights: Weights, smallest: float) -> tuple[Weights, Tensor]:
    """The same latents as a JumpReLU: magnitudes from a rescaled encoder, the open gate as a threshold on them."""
    gain = weights["r_mag"].exp()
    folded = {**weights, "W_enc": weights["W_enc"] * gain[:, None]}
    return folded, weights["b_enc"] - gain * weights["b_gate"]
