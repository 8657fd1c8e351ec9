"""The state of a training run between two steps: all that the next step depends on, and nothing else.

Nothing is random after the initial weights, so there is no generator to carry.
"""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sae_atlas.activations.store import Normaliser
from sae_atlas.io.errors import AtlasError
from sae_atlas.kernels.measured import Weights, floats
from sae_atlas.saes import architecture
from sae_atlas.saes.architectures import ARCHITECTURES, uses
from sae_atlas.saes.checkpoint import load_tensors
from sae_atlas.saes.parts import initial_weights
from sae_atlas.training.recipe import Recipe, canonical_lambda

NUMBERS = ("penalty", "smoothed_l0", "smallest", "density")


@dataclass
class State:
    """Scaled space as in sae_atlas/saes/parts.py. The normaliser is the first window's, kept for the whole chain.

    NUMBERS may be tensors of no dimension while steps run ahead of what is known (window.Window).
    """

    weights: Weights
    first: Weights  # Adam's average of the gradient
    second: Weights  # and of its square
    mean: Tensor  # [d_in], of raw activations
    scale: float  # 1 / sqrt(E||x - mean||^2)
    since_fired: Tensor  # [d_sae] int64: tokens since a latent was last active
    penalty: float  # lambda now, before its warm-up; the L0 coefficient of JumpReLU; 0 for TopK
    steps: int = 0  # training steps done
    tokens: int = 0  # activations trained on
    smoothed_l0: float | None = None  # what the controller steers by
    smallest: float = 0.0  # smoothed smallest active latent: BatchTopK's threshold at inference
    density: float = 0.5  # active fraction of the latents in the last step
    target_mean: Tensor | None = None  # [d_out], of a transcoder's raw targets
    target_scale: float | None = None  # 1 / sqrt(E||y - mean||^2)

    def to(self, device: torch.device | str, copy: bool = False) -> "State":
        def moved(value):
            if isinstance(value, dict):
                return {name: moved(each) for name, each in value.items()}
            return value.to(device, copy=copy) if isinstance(value, Tensor) else value

        return State(**{field.name: moved(getattr(self, field.name)) for field in fields(self)})

    def scaled(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Raw rows of a store as the step reads them: x [batch, d_in], which may be `rows` changed in place, and a
        transcoder's target [batch, d_out].
        """
        if self.target_mean is None:
            return rows.sub_(self.mean).mul_(self.scale), None
        x, target = rows.tensor_split([len(self.mean)], dim=1)
        return (x - self.mean).mul_(self.scale), (target - self.target_mean).mul_(self.target_scale)

    def settle(self) -> None:
        """Numbers that were left on a device become plain floats; this waits for the device."""
        left = [name for name in NUMBERS if isinstance(getattr(self, name), Tensor)]
        for name, value in zip(left, floats([getattr(self, name) for name in left]), strict=True):
            setattr(self, name, value)

    def to_dict(self) -> dict:
        """Plain values and tensors of the CPU."""
        return dict(vars(self.to("cpu")))


def initial_state(recipe: Recipe, read: Normaliser, layer: int = 0, target: Normaliser | None = None) -> State:
    """The state before the first step. read: of the activations that are encoded; target: of those a transcoder predicts.

    Every layer starts from other directions: latents that persist from layer to layer must have found each other.
    """
    module = architecture(recipe.architecture)
    d_in, rebuilt = len(read.mean), target or read
    d_sae = recipe.d_sae(d_in)
    kind = ARCHITECTURES[recipe.architecture]
    b_dec = torch.from_numpy(rebuilt.geometric_median - rebuilt.mean) * rebuilt.scale
    weights = initial_weights(d_in, d_sae, b_dec, _seed(recipe.seed, layer), kind.encoder_norm, target is not None)
    if kind.inference == "pursuit":  # the encoder is the decoder
        if target is not None:
            raise AtlasError(f"{recipe.architecture}: encodes with its decoder, and so cannot predict another site")
        weights = {name: weights[name] for name in ("W_dec", "b_dec")}
    if recipe.skip:
        weights["W_skip"] = torch.zeros(len(b_dec), d_in)
    if hasattr(module, "extra_weights"):
        weights |= module.extra_weights(recipe, d_sae)
    return State(
        weights=weights,
        first={name: torch.zeros_like(weight) for name, weight in weights.items()},
        second={name: torch.zeros_like(weight) for name, weight in weights.items()},
        mean=torch.from_numpy(read.mean),
        scale=read.scale,
        since_fired=torch.zeros(d_sae, dtype=torch.int64),
        penalty=initial_penalty(recipe, d_sae, len(b_dec), rebuilt.scale),
        density=recipe.k / d_sae if "k" in kind.keys else 0.5,
        target_mean=None if target is None else torch.from_numpy(target.mean),
        target_scale=None if target is None else target.scale,
    )


def load_state(path: str | Path, recipe: Recipe, d_in: int | None = None) -> State:
    """The state in a resume file. Raises AtlasError if it is of other sizes than recipe and activations ask for."""
    state = State(**load_tensors(path)["state"])
    d_in = len(state.mean) if d_in is None else d_in
    if len(state.mean) != d_in or len(state.since_fired) != recipe.d_sae(d_in):
        raise AtlasError(f"{path}: an SAE of other sizes than recipe and store ask for. Delete it and rerun.")
    return state


def initial_penalty(recipe: Recipe, d_sae: int, d_out: int, scale: float) -> float:
    """scale: of the normaliser of what is rebuilt, [d_out]."""
    if uses(recipe.architecture, "l1"):
        return canonical_lambda(recipe.l1, d_out, d_sae, scale)
    return recipe.jumprelu.coefficient if uses(recipe.architecture, "jumprelu") else 0.0


def _seed(seed: int, layer: int) -> int:
    """A seed of its own for every pair."""
    return int(np.random.SeedSequence([seed, layer]).generate_state(1, np.uint64)[0] >> 1)
