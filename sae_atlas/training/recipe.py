"""The recipe as training reads it; what its keys mean is said in sae_atlas.config.recipes."""

from dataclasses import dataclass

CONVENTIONS = ("canonical", "mean-sum", "mean-mean")


@dataclass(frozen=True)
class L1:
    coefficient: float = 0.0
    convention: str = "canonical"
    target_l0: float | None = None


@dataclass(frozen=True)
class AuxK:
    coefficient: float
    latents: int | None


@dataclass(frozen=True)
class JumpReLU:
    target_l0: float
    coefficient: float
    bandwidth: float
    threshold: float


@dataclass(frozen=True)
class Recipe:
    """Keys with a default here are those that only some architectures use; for the others the default does nothing."""

    architecture: str  # of saes.architectures
    expansion: int
    seed: int
    batch: int
    learning_rate: float
    adam_betas: tuple[float, float]
    warmup: int
    decay: float
    clip: float
    dead_after: int
    sparsity_warmup: int = 0
    l1: L1 = L1()
    k: int = 0
    auxk: AuxK | None = None
    jumprelu: JumpReLU | None = None
    groups: tuple[float, ...] = ()

    @classmethod
    def from_dict(cls, values: dict) -> "Recipe":
        """The recipe of plain values that are complete (config.read.complete_recipe); they are not checked again."""
        kinds = {"l1": L1, "auxk": AuxK, "jumprelu": JumpReLU}
        parts = {key: kind(**values[key]) for key, kind in kinds.items() if key in values}
        return cls(**{**values, **parts})

    def d_sae(self, d_in: int) -> int:
        return self.expansion * d_in


def canonical_lambda(l1: L1, d_in: int, d_sae: int, scale: float) -> float:
    """Lambda of `||x - x_hat||^2 + lambda sum_j f_j ||W_dec_j||` where E||x||^2 = 1.

    scale: the normaliser's, 1 / sqrt(E||x - mean||^2) on raw activations. `mean-sum` is (mean over dimensions of the
    squared error) + lambda * (sum of latents) on raw activations, `mean-mean` has the mean of latents.
    """
    factor = {"canonical": 1.0, "mean-sum": d_in * scale, "mean-mean": d_in * scale / d_sae}
    return l1.coefficient * factor[l1.convention]
