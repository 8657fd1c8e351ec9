"""Held-out data of one layer: what all snapshots of it are measured against."""

import numpy as np
import torch
from torch import Tensor

from sae_atlas.activations.outliers import median_norm
from sae_atlas.metrics.held_out import HeldOut, patched_name, patched_site, predictions, replace_site, stream_name
from sae_atlas.metrics.losses import Clean, losses, scored
from sae_atlas.sites.trace import forward_pass


class Contexts:
    """mask and tokens [contexts, context]; the first `patched` contexts have losses, of saved activations none. `shared`: sums
    of them by context.
    """

    def __init__(self, source: HeldOut):
        self.patched: int = source.attrs["patched"]
        self.mask = torch.from_numpy(source.rows("mask")[:])
        self.tokens = torch.from_numpy(source.rows("tokens")[:])
        self.predicted = self.mask[: self.patched, :-1]
        self.shared = {"predictions": self.predicted.sum(dim=1).double().numpy()}
        if self.patched:
            self.final, ce = source.rows("final"), torch.from_numpy(source.rows("ce_clean")[:])
            self.shared["ce_clean"] = self.per_context(ce, slice(0, self.patched))

    def per_context(self, losses: Tensor, contexts: slice) -> np.ndarray:
        """Sum of [contexts, context - 1] losses over the predictions that count, [contexts]."""
        return torch.where(self.predicted[contexts], losses.cpu(), 0).sum(dim=1, dtype=torch.float64).numpy()

    def predictions(self, model, batch: slice) -> Clean:
        """The clean pass's predictions on those contexts of the batch that have losses."""
        stop = min(batch.stop, self.patched)
        final = torch.from_numpy(self.final[batch.start : stop]).to(model.device, model.dtype)
        return predictions(model, final, self.tokens[batch.start : stop].to(model.device))


class LayerData(Contexts):
    """The contexts with a layer's ablated losses. Activations stay on disk (`pair`)."""

    def __init__(self, source: HeldOut, name: str, outlier_norm: float):
        super().__init__(source)
        self.name, self.site = name, patched_site(source.attrs)
        self.inputs, self.targets = (source.rows(f"{name}/{each}") for each in ("site", patched_name(source.attrs)))
        norms = torch.cat([self.y(part).norm(dim=-1) for part in self._parts()])
        self.inside = self.mask & (norms <= outlier_norm * median_norm(norms[self.mask]))  # not an outlier
        self.mean = torch.from_numpy(source.rows(f"{name}/mean")[:]).double()
        # In the precision of x_hat, so that predicting it explains exactly nothing.
        total = sum(self.y(part)[self.inside[part]].sum(dim=0, dtype=torch.float64) for part in self._parts())
        self.mean_inside = (total / self.inside.sum()).float().double()
        if not self.patched:
            return
        self.stream = source.rows(f"{name}/{stream_name(source.attrs)}")
        for loss in ("ce_zero", "ce_mean", "kl_zero"):
            values = torch.from_numpy(source.rows(f"{name}/{loss}")[:])
            self.shared[loss] = self.per_context(values, slice(0, self.patched))

    def pair(self, contexts: slice) -> tuple[Tensor, Tensor]:
        """What an SAE reads [contexts, context, d_in] and what it rebuilds, float32: the same unless it is a transcoder."""
        x = torch.from_numpy(self.inputs[contexts])
        return x, x if self.targets.path == self.inputs.path else self.y(contexts)

    def y(self, contexts: slice) -> Tensor:
        """Activations at the site that is rebuilt, [contexts, context, d_out] in float32."""
        return torch.from_numpy(self.targets[contexts])

    def _parts(self) -> list[slice]:
        size = self.targets.chunk_rows
        return [slice(first, first + size) for first in range(0, len(self.mask), size)]

    def patched_losses(self, model, layer: int, clean: Clean, replaced: Tensor, batch: slice) -> tuple[np.ndarray, ...]:
        """CE and KL(clean || patched), summed over the predictions that count, of those contexts of the batch that have losses,
        when the model reads `replaced` [contexts, context, d_out].
        """
        rows = slice(batch.start, min(batch.stop, self.patched))
        tokens = self.tokens[rows].to(model.device)
        stream = torch.from_numpy(self.stream[rows]).to(model.device, model.dtype)
        replaced = replaced[: rows.stop - rows.start].to(model.device, model.dtype)
        with replace_site(model, self.site, layer, stream, replaced):
            logits = forward_pass(model, tokens).logits
        of_tokens = losses(logits, scored(model, tokens), clean)
        return tuple(self.per_context(each, rows) for each in of_tokens)
