"""A trained SAE or transcoder at inference, any architecture, on raw activations."""

from pathlib import Path

import torch
from torch import Tensor

from sae_atlas.io.errors import AtlasError
from sae_atlas.saes import matching_pursuit
from sae_atlas.saes.architectures import ARCHITECTURES
from sae_atlas.saes.checkpoint import load_checkpoint
from sae_atlas.saes.parts import keep_largest
from sae_atlas.saes.token_norm import TOKEN_NORMS


class Sae:
    """W_enc [d_in, d_sae], b_enc [d_sae], W_dec [d_sae, d_in], b_dec [d_in] on every architecture.

    Latents are z = (x - b_dec) W_enc + b_enc, then: the `k` largest positive of a token (TopK), or z where it is above
    `threshold` [d_sae] (zeros for ReLU; BatchTopK, Matryoshka, JumpReLU and Gated have learnt ones). Matching pursuit takes `k`
    of x - b_dec one after the other (matching_pursuit.py); its W_enc is its decoder.

    A transcoder reads x [d_in] and predicts the activation of another site [d_out]: its latents are those of
    z = x W_enc + b_enc, W_dec is [d_sae, d_out], b_dec [d_out], and W_skip [d_out, d_in] where it has a skip connection.

    Activations in another precision or on another device are taken to those of the weights.
    Some SAEs of others read and write every token normalised by its own statistics: `token_norm` (token_norm.py) or None.
    """

    def __init__(self, model_state: dict[str, Tensor], config: dict, stats: dict | None = None):
        self.W_enc = model_state["encoder.weight"].T
        self.b_enc = model_state["encoder.bias"]
        self.W_dec = model_state["decoder.weight"].T.contiguous()
        self.is_transcoder = "d_out" in config
        self.b_dec = model_state["decoder.bias"]
        if not self.is_transcoder:
            self.b_dec = self.b_dec + model_state["b_pre"]
        self.W_skip = model_state.get("skip.weight")
        self.threshold = model_state.get("threshold", torch.zeros_like(self.b_enc))
        self.config, self.stats = config, stats or {}
        self.token_norm = config.get("token_norm")
        self.architecture = config["recipe"]["architecture"]
        kind = ARCHITECTURES[self.architecture]
        self.inference, self.k = kind.inference, config["recipe"]["k"] if kind.has_k else None
        self.d_in, self.d_sae = self.W_enc.shape
        self.d_out = len(self.b_dec)
        self._kept_gram = None

    @property
    def kind(self) -> str:
        return "transcoder" if self.is_transcoder else "SAE"

    @classmethod
    def load(cls, path: str | Path) -> "Sae":
        """From a checkpoint. Raises AtlasError as load_checkpoint does."""
        return cls(**load_checkpoint(path))

    def to(self, target: torch.device | str | torch.dtype) -> "Sae":
        """Move to a device or dtype, in place."""
        self._kept_gram = None
        for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold", "W_skip"):
            if getattr(self, name) is not None:
                setattr(self, name, getattr(self, name).to(target))
        return self

    def pre_activations(self, x: Tensor) -> Tensor:
        """z [..., d_sae]."""
        return self._read(x) @ self.W_enc + self.b_enc

    def _read(self, x: Tensor) -> Tensor:
        x = x.to(self.W_enc)
        if self.token_norm is not None:
            x = TOKEN_NORMS[self.token_norm](x).read(x)
        return x if self.is_transcoder else x - self.b_dec

    def _gram(self) -> Tensor:
        """W_dec W_dec^T [d_sae, d_sae], kept for as long as the decoder is the same tensor, and not changed in place."""
        decoder = self.W_dec
        version = None if decoder.is_inference() else decoder._version
        if self._kept_gram is None or self._kept_gram[0] is not decoder or self._kept_gram[1] != version:
            with torch.no_grad():
                self._kept_gram = decoder, version, decoder @ decoder.T
        return self._kept_gram[2]

    def encode(self, x: Tensor) -> Tensor:
        """Latents [..., d_sae] of raw activations x [..., d_in]. Raises AtlasError for activations of another width."""
        if x.shape[-1] != self.d_in:
            raise AtlasError(
                f"this {self.kind} reads {self.d_in} dimensions, the activations have {x.shape[-1]}; give it its own site's"
            )
        if self.inference == "pursuit":
            rows = self._read(x).reshape(-1, self.d_in)
            gram = self._gram() if len(rows) * self.k > self.d_sae else None
            return matching_pursuit.encode(rows, self.W_dec, self.k, gram).reshape(*x.shape[:-1], self.d_sae)
        z = self.pre_activations(x)
        if self.k is not None:
            return keep_largest(z.reshape(-1, self.d_sae), self.k).reshape(z.shape)
        return torch.where(z > self.threshold, z, 0).relu()

    def decode(self, latents: Tensor, x: Tensor | None = None) -> Tensor:
        """Reconstruction [..., d_out] of latents [..., d_sae]; without the skip connection of a transcoder that has one.

        x: [..., d_in], what the latents are of. Raises AtlasError where an SAE with a `token_norm` is not given it.
        """
        decoded = latents @ self.W_dec + self.b_dec
        if self.token_norm is None:
            return decoded
        if x is None:
            raise AtlasError(
                f"this SAE normalises every token ({self.token_norm}); give the activations, too: decode(latents, x)"
            )
        return TOKEN_NORMS[self.token_norm](x.to(self.W_enc)).write(decoded)

    def latent_gradient(self, gradient: Tensor, x: Tensor) -> Tensor:
        """Gradient of a number by the latents of x, [..., d_sae], of its gradient [..., d_out] by what they decode to."""
        gradient = gradient.to(self.W_dec)
        if self.token_norm is not None:
            gradient = gradient * TOKEN_NORMS[self.token_norm](x.to(self.W_enc)).write_scale
        return gradient @ self.W_dec.T

    def with_skip(self, decoded: Tensor, x: Tensor) -> Tensor:
        """What was decoded [..., d_out] and, of a transcoder with a skip connection, what that adds for x [..., d_in]."""
        return decoded if self.W_skip is None else decoded + x.to(self.W_skip) @ self.W_skip.T

    def __call__(self, x: Tensor) -> Tensor:
        """x_hat [..., d_in]; of a transcoder y_hat [..., d_out], the target site's activations."""
        return self.with_skip(self.decode(self.encode(x), x), x)
