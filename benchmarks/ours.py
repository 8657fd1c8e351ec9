"""sae_atlas: the training loop's own step, bookkeeping and curve included, on the device of the weights."""

import torch

from benchmarks.workloads import LEARNING_RATE, PENALTY, Work
from sae_atlas.config.read import complete_recipe
from sae_atlas.kernels.measured import Control, Weights
from sae_atlas.kernels.threads import use_threads
from sae_atlas.saes import architecture
from sae_atlas.training.recipe import Recipe
from sae_atlas.training.state import State
from sae_atlas.training.window import Source, Window


class Atlas:
    def __init__(self, work: Work, weights: Weights, threads: int):
        self.work, self.threads = work, threads
        zeros = torch.zeros(work.d_in, device=weights["W_dec"].device)
        keys = {"k": work.l0} if work.kind == "topk" else {"l1": {"coefficient": PENALTY}, "sparsity_warmup": 0}
        self.recipe = Recipe.from_dict(
            complete_recipe(
                {
                    "architecture": "topk" if work.kind == "topk" else "relu",
                    "expansion": work.d_sae // work.d_in,
                    "batch": work.batch,
                    "learning_rate": LEARNING_RATE,
                    "warmup": 0,
                    "decay": 0,
                    "skip": work.skip,
                    **keys,
                }
            )
        )
        self.state = State(
            weights={name: weight.clone() for name, weight in weights.items()},
            first={name: torch.zeros_like(weight) for name, weight in weights.items()},
            second={name: torch.zeros_like(weight) for name, weight in weights.items()},
            mean=zeros,
            scale=1.0,
            since_fired=torch.zeros(work.d_sae, dtype=torch.int64, device=weights["W_dec"].device),
            penalty=PENALTY if work.kind == "l1" else 0.0,
            density=work.l0 / work.d_sae,
            target_mean=zeros if work.pairs else None,
            target_scale=1.0 if work.pairs else None,
        )
        source, rows = Source(), 1000 * work.batch
        source.steps, source.kind, source.path = 1000, "benchmark", "benchmark"
        self.window = Window(self.recipe, source, self.state, 0, rows, None, threads, None, "bfloat16")
        self.window.curve.every = source.steps

    def gradients(self, x) -> Weights:
        use_threads(self.threads)
        x, target = self.work.split(x)
        control = Control(self.state.penalty, target, density=self.state.density)
        grads, _ = self.window.backend.gradients(
            architecture(self.recipe.architecture), self.state.weights, x, self.recipe, control
        )
        return {name: grad.clone() for name, grad in grads.items()}

    def step(self, x) -> None:
        use_threads(self.threads)
        self.window._step(x.clone(), None)

    @property
    def l0(self) -> float:
        return self.state.density * len(self.state.since_fired)
