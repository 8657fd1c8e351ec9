"""What the base model loses when it reads the reconstruction: cross-entropy and KL."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Clean:
    """The clean pass's predictions: what every patched pass over the same contexts is compared with."""

    probabilities: Tensor  # [contexts, context - 1, vocabulary]
    negentropy: Tensor  # [contexts, context - 1], sum p log p in nats


def clean_predictions(logits: Tensor) -> Clean:
    """From logits [contexts, context, vocabulary]."""
    logs = torch.log_softmax(logits[:, :-1].float(), dim=-1)
    probabilities = logs.exp()
    return Clean(probabilities, torch.linalg.vecdot(probabilities, logs))


def losses(logits: Tensor, tokens: Tensor, clean: Clean) -> tuple[Tensor, Tensor]:
    """Cross-entropy of every next token, and KL(clean || patched), both [contexts, context - 1] in nats.

    logits: [contexts, context, vocabulary]; tokens: [contexts, context]. With z the patched logits and p the clean
    probabilities, CE = lse(z) - z[next] and KL = sum p log p - p . z + lse(z): two passes over the logits in all.
    """
    entropies, divergences = [], []
    for row, context in enumerate(logits):  # one context's logits stay in cache
        z = context[:-1].float()
        total = torch.logsumexp(z, dim=-1)
        entropies.append(total - z.gather(1, tokens[row, 1:, None])[:, 0])
        divergences.append(clean.negentropy[row] - torch.linalg.vecdot(clean.probabilities[row], z) + total)
    return torch.stack(entropies), torch.stack(divergences)


def scored(model, tokens: Tensor) -> Tensor:
    """Tokens whose next one at every position is what the prediction there is scored against, [contexts, context].

    The text itself for a model that predicts what comes next. One that reads in both directions predicts each position
    itself, and sees it: there the cross-entropy says how much of the text survives, not how well it is guessed.
    """
    return tokens.roll(1, dims=1) if getattr(model.config, "predicts", "next") == "itself" else tokens


def recovered(ablated: float, patched: float, clean: float) -> float:
    """(ablated - patched) / (ablated - clean): 1 if nothing is lost, 0 if no better than the ablation. Unitless.

    Below 0 if worse than the ablation. It says nothing where the ablation does no harm: read the difference in nats too.
    """
    return (ablated - patched) / (ablated - clean)


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
