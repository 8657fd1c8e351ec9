"""Held-out data of one layer: what all snapshots of it are measured against."""

import numpy as np
import torch

from sae_atlas.metrics.held_out import HeldOut, predictions, stream_name
from sae_atlas.metrics.loss_recovered import Clean


class LayerData:
    """x [contexts, context, d_in], mask and tokens [contexts, context]; the first `patched` contexts have losses."""

    def __init__(self, source: HeldOut, name: str, outlier_norm: float):
        self.name, self.site = name, source.attrs["site"]
        self.patched: int = source.attrs["patched"]
        self.mask = torch.from_numpy(source.rows("mask")[:])
        self.tokens = torch.from_numpy(source.rows("tokens")[:])
        self.x = torch.from_numpy(source.rows(f"{name}/site")[:])
        self.final, self.stream = source.rows("final"), source.rows(f"{name}/{stream_name(self.site)}")
        norms = self.x.norm(dim=-1)
        self.inside = self.mask & (norms <= outlier_norm * norms[self.mask].median())  # not an outlier
        self.mean = torch.from_numpy(source.rows(f"{name}/mean")[:]).double()
        # In the precision of x_hat, so that predicting it explains exactly nothing.
        self.mean_inside = self.x[self.inside].double().mean(dim=0).float().double()
        self.predicted = self.mask[: self.patched, :-1]
        self.shared = {"predictions": self.predicted.sum(dim=1).double().numpy()}
        for loss in ("ce_zero", "ce_mean", "kl_zero"):
            self.shared[loss] = self.per_context(source.rows(f"{name}/{loss}")[:])
        self.shared["ce_clean"] = self.per_context(source.rows("ce_clean")[:])

    def per_context(self, losses: np.ndarray) -> np.ndarray:
        """Sum of [patched, context - 1] losses over the predictions that count, [patched]."""
        return np.where(self.predicted.numpy(), losses, 0).sum(axis=1, dtype=np.float64)

    def predictions(self, model, batch: slice) -> Clean:
        """The clean pass's predictions on those contexts of the batch that have losses."""
        stop = min(batch.stop, self.patched)
        final = torch.from_numpy(self.final[batch.start : stop]).to(model.device, model.dtype)
        return predictions(model, final, self.tokens[batch.start : stop].to(model.device))
