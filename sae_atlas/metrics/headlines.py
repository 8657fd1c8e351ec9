"""The metrics that are functions of sums over held-out contexts, and so have a bootstrap interval."""

from collections.abc import Callable
from typing import NamedTuple

from sae_atlas.metrics import importance, loss_recovered, reconstruction, sparsity
from sae_atlas.metrics.loss_recovered import mean_loss


class Headline(NamedTuple):
    unit: str  # empty: a ratio
    of: Callable[[dict], float]  # the sums -> the value; numbers or arrays of resamples


NATS, LATENTS, SQUARED = "nats per token", "latents per token", "squared activation"

# Over all unmasked held-out tokens.
OF_TOKENS = {
    "fvu": Headline("", reconstruction.fvu),
    "fvu_without_outliers": Headline("", reconstruction.fvu_without_outliers),
    "explained_variance": Headline("", reconstruction.explained_variance),
    "explained_variance_without_outliers": Headline("", reconstruction.explained_variance_without_outliers),
    "mse": Headline(SQUARED, reconstruction.mse),
    "cosine": Headline("", reconstruction.cosine),
    "norm_ratio": Headline("", reconstruction.norm_ratio),
    "relative_bias": Headline("", reconstruction.relative_bias),
    "l0": Headline(LATENTS, sparsity.mean_l0),
    "l0_std": Headline(LATENTS, sparsity.l0_deviation),
    "activation_rate": Headline("", sparsity.activation_rate),
    "importance": Headline(SQUARED, importance.total),
}
# Over predictions at unmasked positions of the contexts that have patched passes.
OF_PREDICTIONS = {
    "ce_clean": Headline(NATS, mean_loss("ce_clean")),
    "ce_zero": Headline(NATS, mean_loss("ce_zero")),
    "ce_mean": Headline(NATS, mean_loss("ce_mean")),
    "ce_sae": Headline(NATS, mean_loss("ce_sae")),
    "ce_increase": Headline(NATS, loss_recovered.ce_increase),
    "ce_recovered": Headline("", loss_recovered.ce_recovered),
    "ce_recovered_mean_ablation": Headline("", loss_recovered.ce_recovered_mean_ablation),
    "kl": Headline(NATS, mean_loss("kl_sae")),
    "kl_zero": Headline(NATS, mean_loss("kl_zero")),
    "kl_recovered": Headline("", loss_recovered.kl_recovered),
}
