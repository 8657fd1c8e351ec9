"""The active entries of latents: few of them, so sparsity, importance and reconstruction are cheap to take from them."""

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from sae_atlas.saes.sae import Sae

TOKENS_AT_ONCE = 1024  # tokens encoded at once: 0.5 GB beside 131,072 latents
DENSE_ABOVE = 0.07  # share of active entries above which the dense product is the faster decoder


@dataclass(frozen=True)
class Active:
    """Entries of latents [tokens, d_sae] that are not 0, token by token: entry e is `value[e]` at (`token[e]`, `latent[e]`)."""

    token: Tensor
    latent: Tensor
    value: Tensor
    tokens: int
    d_sae: int

    @classmethod
    def of(cls, latents: Tensor) -> "Active":
        token, latent = latents.nonzero(as_tuple=True)
        return cls(token, latent, latents[token, latent], *latents.shape)

    @classmethod
    def joined(cls, parts: list["Active"]) -> "Active":
        """Of the tokens of all parts, one part after the other."""
        first = np.cumsum([0, *(part.tokens for part in parts)])
        token = torch.cat([part.token + at for part, at in zip(parts, first[:-1].tolist(), strict=True)])
        latent, value = (torch.cat([getattr(part, name) for part in parts]) for name in ("latent", "value"))
        return cls(token, latent, value, int(first[-1]), parts[0].d_sae)

    def cpu(self) -> "Active":
        moved = (getattr(self, field.name) for field in fields(self))
        return Active(*(each.cpu() if isinstance(each, Tensor) else each for each in moved))

    def per_token(self, amounts: Tensor | None = None) -> Tensor:
        """Entries of every token, or the sum of their amounts [entries], [tokens]."""
        return torch.bincount(self.token, amounts, minlength=self.tokens)

    def per_latent(self, amounts: Tensor | None = None) -> Tensor:
        """Entries of every latent, or the sum of their amounts [entries], [d_sae]."""
        return torch.bincount(self.latent, amounts, minlength=self.d_sae)

    def reconstruction(self, sae: Sae) -> Tensor:
        """What the SAE decodes them to, [tokens, d_out]: a sum of `W_dec` rows for every token."""
        first = self.per_token().cumsum(dim=0).roll(1)
        first[:1] = 0
        return embedding_bag(self.latent, sae.W_dec, first, per_sample_weights=self.value, mode="sum") + sae.b_dec


def through_latents(sae: Sae, x: Tensor) -> tuple[Active, Tensor]:
    """Active entries and reconstruction of x [tokens, d_in], both on the CPU. What is as wide as the SAE stays on its device,
    and is there for `TOKENS_AT_ONCE` tokens at once.
    """
    active_parts, decoded = [], []
    for part in x.split(TOKENS_AT_ONCE):
        read = part.to(sae.b_dec.device)
        latents = sae.encode(read)
        active = Active.of(latents)
        decoded.append(sae.with_skip(decode(sae, latents, active, read), read).cpu())
        active_parts.append(active.cpu())
    return Active.joined(active_parts), torch.cat(decoded)


def decode(sae: Sae, latents: Tensor, active: Active, x: Tensor) -> Tensor:
    """Reconstruction [tokens, d_out] of latents of x whose active entries are at hand, in the faster way."""
    dense = len(active.value) > DENSE_ABOVE * latents.numel() or sae.token_norm is not None
    return sae.decode(latents, x) if dense else active.reconstruction(sae)
