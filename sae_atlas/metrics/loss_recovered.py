"""What the base model loses when it reads the reconstruction: cross-entropy and KL."""

import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, tokens: Tensor) -> Tensor:
    """Nats of every next token, [contexts, context - 1]: logits [contexts, context, vocabulary], tokens [contexts, context]."""
    flat = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten(), reduction="none")
    return flat.view(len(tokens), -1)


def kl_divergence(clean: Tensor, patched: Tensor) -> Tensor:
    """KL(clean || patched) of the next-token distributions in nats, [contexts, context - 1], from logits."""
    p, q = F.log_softmax(clean[:, :-1].float(), dim=-1), F.log_softmax(patched[:, :-1].float(), dim=-1)
    return (p.exp() * (p - q)).sum(dim=-1)


def recovered(ablated: float, patched: float, clean: float) -> float:
    """(ablated - patched) / (ablated - clean): 1 if nothing is lost, 0 if no better than the ablation. Unitless.

    With cross-entropies, "CE recovered"; with KL(clean || .), whose clean value is 0, "KL recovered".
    """
    return (ablated - patched) / (ablated - clean)
