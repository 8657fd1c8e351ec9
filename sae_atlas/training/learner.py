"""A language model in training: AdamW on what requires a gradient, one step at a time, with a state to go on from."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn

from sae_atlas.corpus import Corpus

BETAS = (0.9, 0.95)


def read_contexts(source: Corpus, rows: slice, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and mask of the contexts `rows`, both [contexts, context]."""
    tokens = torch.from_numpy(source.tokens[rows].astype(np.int64))
    return tokens.to(device), torch.from_numpy(source.mask[rows]).to(device)


class Learner:
    """On CPU the same steps give the same bits on as many threads."""

    def __init__(
        self,
        model: nn.Module,
        weight_decay: float,
        clip: float,
        decays: Callable[[Tensor], bool] = lambda weight: weight.ndim > 1,
    ):
        """decays: which weights decay; by default matrices, not biases and norms. clip: largest norm of the gradient."""
        self.weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.clip = clip
        groups = [
            {"params": [w for w in self.weights.values() if decays(w)], "weight_decay": weight_decay},
            {"params": [w for w in self.weights.values() if not decays(w)], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW([group for group in groups if group["params"]], betas=BETAS)

    def step(self, losses: Iterable[Tensor], rate: float) -> float:
        """Add up the gradients of the losses, one in memory at a time, clip their norm and take a step; gives the loss."""
        total = 0.0
        for loss in losses:
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(self.weights.values(), self.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total

    def trained(self) -> dict[str, Tensor]:
        """A copy of the weights in training, on the CPU."""
        return {name: weight.detach().cpu().clone() for name, weight in self.weights.items()}

    def state(self) -> dict:
        return {"weights": self.trained(), "optimizer": self.optimizer.state_dict()}

    def load(self, state: dict) -> None:
        self.put(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])

    @torch.no_grad()
    def put(self, weights: dict[str, Tensor]) -> None:
        """Take the values of `trained` again."""
        for name, weight in self.weights.items():
            weight.copy_(weights[name])
