"""Normalisations of a token by its own statistics, which no weight can hold: some published SAEs read and write through one."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

EPSILON = 1e-5  # of `layer_norm`, as its SAEs were trained


class TokenNorm(NamedTuple):
    """What a token x [..., d_in] is read and written through: (x - centre) / read_scale, and decoded * write_scale + centre.

    All are [..., 1].
    """

    centre: Tensor
    read_scale: Tensor
    write_scale: Tensor

    def read(self, x: Tensor) -> Tensor:
        return (x - self.centre) / self.read_scale

    def write(self, decoded: Tensor) -> Tensor:
        return decoded * self.write_scale + self.centre


def _centre(x: Tensor) -> TokenNorm:
    mean = x.mean(dim=-1, keepdim=True)
    return TokenNorm(mean, torch.ones_like(mean), torch.ones_like(mean))


def _layer_norm(x: Tensor) -> TokenNorm:
    deviation = x.std(dim=-1, keepdim=True)  # of d_in - 1 degrees of freedom
    return TokenNorm(x.mean(dim=-1, keepdim=True), deviation + EPSILON, deviation)


def _constant_norm_rescale(x: Tensor) -> TokenNorm:
    scale = x.norm(dim=-1, keepdim=True) / x.shape[-1] ** 0.5
    return TokenNorm(torch.zeros_like(scale), scale, scale)


# `centre`: of SAEs trained on a model of which TransformerLens had taken the mean out of all that is written to the stream; its
# norms do without it. `layer_norm`, `constant_norm_rescale`: SAELens' names.
TOKEN_NORMS: dict[str, Callable[[Tensor], TokenNorm]] = {
    "centre": _centre,
    "layer_norm": _layer_norm,
    "constant_norm_rescale": _constant_norm_rescale,
}
