"""A trained SAE at inference, any architecture, on raw activations."""

from pathlib import Path

import torch
from torch import Tensor

from sae_atlas.io.errors import AtlasError
from sae_atlas.saes.architectures import ARCHITECTURES
from sae_atlas.saes.checkpoint import load_checkpoint
from sae_atlas.saes.parts import keep_largest


class Sae:
    """W_enc [d_in, d_sae], b_enc [d_sae], W_dec [d_sae, d_in], b_dec [d_in] on every architecture.

    Latents are z = (x - b_dec) W_enc + b_enc, then: the `k` largest positive of a token (TopK), or z where it is above
    `threshold` [d_sae] (zeros for ReLU; BatchTopK, Matryoshka, JumpReLU and Gated have learnt ones).
    """

    def __init__(self, model_state: dict[str, Tensor], config: dict, stats: dict | None = None):
        self.W_enc = model_state["encoder.weight"].T
        self.b_enc = model_state["encoder.bias"]
        self.W_dec = model_state["decoder.weight"].T.contiguous()
        self.b_dec = model_state["b_pre"] + model_state["decoder.bias"]
        self.threshold = model_state.get("threshold", torch.zeros_like(self.b_enc))
        self.config, self.stats = config, stats or {}
        self.architecture = config["recipe"]["architecture"]
        self.inference = ARCHITECTURES[self.architecture].inference
        self.k = config["recipe"]["k"] if self.inference == "topk" else None
        self.d_in, self.d_sae = self.W_enc.shape

    @classmethod
    def load(cls, path: str | Path) -> "Sae":
        """From a checkpoint. Raises AtlasError as load_checkpoint does."""
        return cls(**load_checkpoint(path))

    def to(self, target: torch.device | str | torch.dtype) -> "Sae":
        """Move to a device or dtype, in place."""
        for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold"):
            setattr(self, name, getattr(self, name).to(target))
        return self

    def encode(self, x: Tensor) -> Tensor:
        """Latents [..., d_sae] of raw activations x [..., d_in]. Raises AtlasError for activations of another width."""
        if x.shape[-1] != self.d_in:
            raise AtlasError(
                f"this SAE reads {self.d_in} dimensions, the activations have {x.shape[-1]}; give it its own site's"
            )
        z = (x - self.b_dec) @ self.W_enc + self.b_enc
        if self.k is not None:
            return keep_largest(z.reshape(-1, self.d_sae), self.k).reshape(z.shape)
        return torch.where(z > self.threshold, z, 0).relu()

    def decode(self, latents: Tensor) -> Tensor:
        """Reconstruction [..., d_in] of latents [..., d_sae]."""
        return latents @ self.W_dec + self.b_dec

    def __call__(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))
