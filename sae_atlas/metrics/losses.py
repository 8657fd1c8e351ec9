"""Cross-entropy and KL of the base model's predictions, token by token."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sae_atlas.io.errors import AtlasError


@dataclass(frozen=True)
class Clean:
    """The clean pass's predictions: what every patched pass over the same contexts is compared with."""

    probabilities: Tensor  # [contexts, context - 1, vocabulary]
    negentropy: Tensor  # [contexts, context - 1], sum p log p in nats


def clean_predictions(logits: Tensor) -> Clean:
    """From logits [contexts, context, vocabulary]."""
    contexts, context, words = logits.shape
    probabilities = logits.new_empty((contexts, context - 1, words), dtype=torch.float32)
    negentropy = probabilities.new_empty((contexts, context - 1))
    for row, each in enumerate(logits):  # one context's log-probabilities stay in cache
        logs = torch.log_softmax(each[:-1].float(), dim=-1)
        probabilities[row] = logs.exp()
        negentropy[row] = torch.linalg.vecdot(probabilities[row], logs)
    return Clean(probabilities, negentropy)


def losses(logits: Tensor, tokens: Tensor, clean: Clean) -> tuple[Tensor, Tensor]:
    """Cross-entropy of every next token, and KL(clean || patched), both [contexts, context - 1] in nats.

    logits: [contexts, context, vocabulary]; tokens: [contexts, context]. With z the patched logits and p the clean
    probabilities, CE = lse(z) - z[next] and KL = sum p log p - p . z + lse(z): two passes over the logits in all.
    Raises AtlasError if one is not finite, for a mean over the others would pass for a measurement.
    """
    entropies, divergences = [], []
    for row, context in enumerate(logits):  # one context's logits stay in cache
        z = context[:-1].float()
        total = torch.logsumexp(z, dim=-1)
        entropies.append(total - z.gather(1, tokens[row, 1:, None])[:, 0])
        divergences.append(clean.negentropy[row] - torch.linalg.vecdot(clean.probabilities[row], z) + total)
    of_tokens = torch.stack(entropies), torch.stack(divergences)
    if not all(torch.isfinite(each).all() for each in of_tokens):
        raise AtlasError(
            "the model gives losses that are NaN or infinite; try base_model.dtype: float32, and check the weights"
        )
    return of_tokens


def scored(model, tokens: Tensor) -> Tensor:
    """Tokens whose next one at every position is what the prediction there is scored against, [contexts, context].

    The text itself for a model that predicts what comes next. One that reads in both directions predicts each position
    itself, and sees it: there the cross-entropy says how much of the text survives, not how well it is guessed.
    """
    return tokens.roll(1, dims=1) if getattr(model.config, "predicts", "next") == "itself" else tokens
