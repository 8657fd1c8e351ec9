"""Gated: one encoder decides what is active and another, a rescaled copy, how much (arXiv 2404.16014).

u = (x - b_dec) W_enc^T (parts.py); gate pi = u + b_gate; f = [pi > 0] ReLU(exp(r_mag) u + b_enc). Loss: ||x - x_hat||^2
+ lambda sum_j ReLU(pi_j) + ||x - ReLU(pi) W_dec - b_dec||^2 with what decodes held constant in the last term.
"""

import torch
from torch import Tensor

from sae_atlas.kernels.measured import Control, Weights, encoder_input
from sae_atlas.saes.parts import Loss, reconstruct, squared_error


def extra_weights(recipe, d_sae: int) -> Weights:
    return {"b_gate": torch.zeros(d_sae), "r_mag": torch.zeros(d_sae)}


def loss(weights: Weights, x: Tensor, recipe, control: Control) -> Loss:
    """x [batch, d_in], scaled."""
    u = encoder_input(weights, x, control) @ weights["W_enc"].T
    gate = (u + weights["b_gate"]).relu()
    latents = (gate > 0) * (u * weights["r_mag"].exp() + weights["b_enc"]).relu()
    rebuilt = reconstruct(weights, x, latents)
    reconstruction = squared_error(x, rebuilt, control)
    sparsity = control.penalty * gate.sum(1).mean()
    constant = {name: weight.detach() for name, weight in weights.items()}
    auxiliary = squared_error(x, reconstruct(constant, x, gate), control)
    return Loss(reconstruction + sparsity + auxiliary, reconstruction, sparsity, latents, rebuilt)


def sparse_gradients(step, weights: Weights, recipe, control: Control):
    """The gradient of `loss` from the entries whose gate is open (step: cpu.Step or gpu.Step of sae_atlas/kernels)."""
    entries = step.above(0.0, bias="b_gate")
    of_entry = {name: weights[name].index_select(0, entries.columns) for name in ("b_gate", "r_mag", "b_enc")}
    u, gain = entries.values - of_entry["b_gate"], of_entry["r_mag"].exp()
    # Where a GPU leaves room unused, entries are 0: no latent, whatever the biases are.
    latents = (gain * u + of_entry["b_enc"]).relu() * (entries.values > 0)
    by_gate = step.decode(entries, entries.values)
    to_gate = by_gate.dots * (2 / step.rows) + control.penalty / step.rows
    decoded = step.pulled(entries, step.decode(entries, latents), 2 / step.rows)
    to_magnitude = decoded.dots * (2 / step.rows) * (latents > 0)
    grads = step.accumulate(entries, decoded, latents, to_gate + to_magnitude * gain, 2 / step.rows)
    grads["b_enc"] = step.sum_by_latent(entries, to_magnitude)
    grads["b_gate"] = step.sum_by_latent(entries, to_gate)
    grads["r_mag"] = step.sum_by_latent(entries, to_magnitude * gain * u)
    sparsity = control.penalty / step.rows * entries.values.sum(dtype=torch.float64)
    return grads, step.measured(entries, latents > 0, decoded.squared_error, sparsity, by_gate.squared_error)


def inference(weights: Weights, smallest: float) -> tuple[Weights, Tensor]:
    """The same latents as a JumpReLU: magnitudes from a rescaled encoder, the open gate as a threshold on them."""
    gain = weights["r_mag"].exp()
    folded = {**weights, "W_enc": weights["W_enc"] * gain[:, None]}
    return folded, weights["b_enc"] - gain * weights["b_gate"]


def extra_of_inference(weights: Weights, threshold: Tensor) -> Weights:
    """Of `extra_weights` those with which `inference` gives this threshold: magnitudes as they are read, not rescaled."""
    return {"b_gate": weights["b_enc"] - threshold, "r_mag": torch.zeros_like(threshold)}
