"""What one SAE adds up to on held-out text, per context and per latent, and the metrics made of it."""

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from sae_atlas.metrics import directions, importance, reconstruction, sparsity
from sae_atlas.metrics.active import Active, through_latents
from sae_atlas.metrics.bootstrap import confidence_interval, resampled
from sae_atlas.metrics.labels import OF_PREDICTIONS, OF_THE_WHOLE, OF_TOKENS
from sae_atlas.metrics.layer_data import LayerData
from sae_atlas.metrics.losses import Clean
from sae_atlas.saes.sae import Sae

NAN = float("nan")
BLOCKS = 32  # of neighbouring contexts, by which the importances are kept apart
INSIDE = ("fvu_without_outliers", "explained_variance_without_outliers")


class Sums:
    """Sums over the contexts of `data` for one SAE."""

    def __init__(self, data: LayerData, sae: Sae):
        self.data, self.sae = data, sae
        names = (*reconstruction.SUMS, "tokens_inside", "error_inside", "variance_inside")
        names += ("l0", "l0_squared", "latents", "energy")
        self.sums = {name: np.zeros(len(data.mask)) for name in names}
        self.losses = {name: np.zeros(data.patched) for name in ("ce_sae", "kl_sae")}
        self.counts = torch.zeros(sae.d_sae, dtype=torch.int64)
        contexts = len(data.mask)
        self.block = np.arange(contexts) * min(contexts, BLOCKS) // contexts  # of every context
        self.block_energy = torch.zeros(self.block[-1] + 1, sae.d_sae, dtype=torch.float64)
        self.decoder_norms = sae.W_dec.norm(dim=1)
        self.l0 = []

    @property
    def tokens(self) -> int:
        return int(self.sums["tokens"].sum())

    @property
    def energy(self) -> Tensor:
        """Sum over all tokens of every latent's squared contribution, [d_sae]."""
        return self.block_energy.sum(dim=0)

    @property
    def alive(self) -> Tensor:
        """Which latents fired, [d_sae]."""
        return self.counts > 0

    @property
    def alive_decoder(self) -> Tensor:
        """Decoder rows of the latents that fired, [alive, d_out]."""
        return self.sae.W_dec[self.alive]

    @cached_property
    def alignment(self) -> Tensor:
        """Cosine of every latent's encoder row with its decoder row, [d_sae]; NaN where these have other dimensions."""
        if self.sae.d_in != self.sae.d_out:
            return torch.full((self.sae.d_sae,), NAN)
        return directions.alignment(self.sae.W_enc.T, self.sae.W_dec)

    @cached_property
    def nearest(self) -> Tensor:
        """Cosine of every latent that fired with the nearest other one, [alive]."""
        return directions.nearest(self.alive_decoder)

    def add(self, batch: slice, x: Tensor, y: Tensor) -> Tensor:
        """Measure a batch of contexts with the activations x [contexts, context, d_in] that are to give y, which is x unless
        the SAE is a transcoder; returns their reconstruction, masked positions as read.
        """
        data = self.data
        mask = data.mask[batch]
        unmasked = y[mask]
        active, y_hat = through_latents(self.sae, x[mask])
        l0, energy = sparsity.l0(active), importance.entry_energy(active, self.decoder_norms.cpu())
        context = torch.arange(batch.start, batch.stop).repeat_interleave(mask.sum(dim=1))
        self.counts += sparsity.firing_counts(active)
        self._add_block_energy(active, energy, context)
        self.l0.append(l0.to(torch.int32))
        terms = reconstruction.token_sums(unmasked, y_hat, data.mean)
        inside = data.inside[batch][mask].double()
        terms |= {"tokens_inside": inside, "error_inside": terms["error"] * inside}
        terms["variance_inside"] = ((unmasked.double() - data.mean_inside) ** 2).sum(dim=1) * inside
        terms |= {"l0": l0.double(), "l0_squared": l0.double() ** 2}
        terms["latents"] = torch.full_like(inside, self.sae.d_sae)
        terms["energy"] = active.per_token(energy)
        for name, each in terms.items():
            np.add.at(self.sums[name], context.numpy(), each.numpy())
        replaced = y.clone()
        replaced[mask] = y_hat
        return replaced

    def _add_block_energy(self, active: Active, energy: Tensor, context: Tensor) -> None:
        """energy: of the active entries. context: of every token."""
        block = torch.from_numpy(self.block)[context][active.token]
        cell = block * self.sae.d_sae + active.latent
        self.block_energy += torch.bincount(cell, energy, minlength=self.block_energy.numel()).view_as(
            self.block_energy
        )

    def add_losses(self, model, layer: int, clean: Clean, replaced: Tensor, batch: slice) -> None:
        """The model's losses on a batch of contexts when it reads `replaced` [contexts, context, d_in]."""
        of_contexts = self.data.patched_losses(model, layer, clean, replaced, batch)
        for name, each in zip(("ce_sae", "kl_sae"), of_contexts, strict=True):
            self.losses[name][batch.start : batch.start + len(each)] = each

    def rows(self, final: "Sums") -> list[dict]:
        """Rows of the table: every metric with its interval, unit and window. final: the last snapshot of the layer."""
        losses = {**self.data.shared, **self.losses}
        inside, predictions = int(self.sums["tokens_inside"].sum()), int(losses["predictions"].sum())
        rows = []
        measured = [(OF_TOKENS, self.sums), *([(OF_PREDICTIONS, losses)] if self.data.patched else [])]
        for headlines, sums in measured:
            drawn = resampled(sums)
            for metric, about in headlines.items():
                low, high = confidence_interval(about.of(drawn))
                value = about.of({name: each.sum() for name, each in sums.items()})
                window = predictions if sums is losses else inside if metric in INSIDE else self.tokens
                rows.append(_row(metric, value, about.unit, window, low, high))
        whole = self.plain(final)
        return rows + [_row(metric, whole[metric], about.unit, self.tokens) for metric, about in OF_THE_WHOLE.items()]

    def plain(self, final: "Sums") -> dict[str, float]:
        """Metrics of the whole set of tokens, or of the weights."""
        dead = sparsity.dead(self.counts)
        alive = self.sae.d_sae - dead
        spectrum = importance.spectrum(self.energy / self.tokens)
        alpha = importance.alpha(float(torch.cat(self.l0).double().mean()), alive)
        return {
            "l0_median": sparsity.median(torch.cat(self.l0)),
            "dead": dead,
            "alive": alive,
            "dead_share": dead / self.sae.d_sae,
            "participation_ratio": importance.participation_ratio(spectrum),
            "rank_99": importance.rank(spectrum, 0.99),
            "alpha": alpha,
            "g": importance.capacity(alpha),
            "d_star": alive / importance.capacity(alpha),
            "alignment": float(self.alignment[self.alive].mean()),
            "nearest": float(self.nearest.mean()),
            "settled": directions.settled(self.alive_decoder, final.alive_decoder),
        }

    def per_latent(self) -> dict[str, np.ndarray]:
        """Columns of the per-latent table: latent, density, importance, alignment, nearest, held_out_tokens.

        density is of the held_out_tokens; nearest, the cosine with the nearest other alive latent, is NaN for dead ones.
        """
        near = torch.full((self.sae.d_sae,), NAN)
        near[self.alive] = self.nearest
        return {
            "latent": np.arange(self.sae.d_sae, dtype=np.int32),
            "density": sparsity.density(self.counts, self.tokens).numpy(),
            "importance": (self.energy / self.tokens).numpy(),
            "alignment": self.alignment.numpy(),
            "nearest": near.numpy(),
            "held_out_tokens": np.full(self.sae.d_sae, self.tokens),
        }

    def per_block(self) -> dict[str, np.ndarray]:
        """Columns of the table of the blocks of contexts: tokens, active (sum of their L0), energy [d_sae] in float32.

        energy: sum over the block's tokens of every latent's squared contribution (metrics.importance.energy).
        """
        tokens, active = (np.bincount(self.block, self.sums[name]).astype(np.int64) for name in ("tokens", "l0"))
        return {"tokens": tokens, "active": active, "energy": self.block_energy.float().numpy()}


def _row(metric: str, value: float, unit: str, window: int, low: float = NAN, high: float = NAN) -> dict:
    return {
        "metric": metric,
        "value": float(value),
        "low": low,
        "high": high,
        "unit": unit,
        "held_out_tokens": window,
    }
