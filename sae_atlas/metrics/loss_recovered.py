"""What the base model loses when it reads the reconstruction: cross-entropy and KL."""

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


def recovered(ablated: float, patched: float, clean: float) -> float:
    """(ablated - patched) / (ablated - clean): 1 if nothing is lost, 0 if no better than the ablation. Unitless.

    With cross-entropies, "CE recovered"; with KL(clean || .), whose clean value is 0, "KL recovered".
    """
    return (ablated - patched) / (ablated - clean)
