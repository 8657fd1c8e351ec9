"""What the base model loses when it reads the reconstruction. Each a function of sums of metrics.losses."""

from collections.abc import Callable


def recovered(ablated: float, patched: float, clean: float) -> float:
    """(ablated - patched) / (ablated - clean): 1 if nothing is lost, 0 if no better than the ablation. Unitless.

    Below 0 if worse than the ablation. It says nothing where the ablation does no harm: read the difference in nats too.
    """
    return (ablated - patched) / (ablated - clean)


def is_harmless(ablated, clean):
    """Where `recovered` says nothing: the ablation does not raise the loss. Numbers or arrays."""
    return ablated <= clean


def mean_loss(name: str) -> Callable[[dict], float]:
    """Metric: the mean of a loss over predictions, in nats per token, 0 or more.

    `ce_clean` is the base model's own cross-entropy; `ce_sae` and `kl_sae`, KL(clean || patched), are through the SAE;
    `_zero` and `_mean` with the site set to zeros or to its held-out mean.
    """
    return lambda sums: sums[name] / sums["predictions"]


def ce_increase(sums: dict) -> float:
    """CE through the SAE minus clean CE, in nats per token; 0 if nothing is lost. It does not saturate."""
    return (sums["ce_sae"] - sums["ce_clean"]) / sums["predictions"]


def ce_recovered(sums: dict) -> float:
    """(CE_zero - CE_sae) / (CE_zero - CE_clean), unitless, at most about 1 (arXiv 2404.16014, "loss recovered")."""
    return recovered(sums["ce_zero"], sums["ce_sae"], sums["ce_clean"])


def ce_recovered_mean_ablation(sums: dict) -> float:
    """(CE_mean - CE_sae) / (CE_mean - CE_clean): against the mean in place of zeros, which is less harmful. Unitless."""
    return recovered(sums["ce_mean"], sums["ce_sae"], sums["ce_clean"])


def kl_recovered(sums: dict) -> float:
    """1 - KL(clean || sae) / KL(clean || zero), unitless, at most 1 (the KL score of SAELens and SAEBench)."""
    return recovered(sums["kl_zero"], sums["kl_sae"], 0.0)
