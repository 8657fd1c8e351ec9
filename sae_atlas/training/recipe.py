"""The recipe as training reads it; what its keys mean is said in sae_atlas.config.recipes."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise

CONVENTIONS = ("canonical", "mean-sum", "mean-mean")


@dataclass(frozen=True)
class L1:
    coefficient: float = 0.0
    convention: str = "canonical"
    target_l0: float | None = None
    anneal_to: float | None = None


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
    skip: bool = False  # a transcoder's W_skip

    @classmethod
    def from_dict(cls, values: dict) -> "Recipe":
        """The recipe of plain values that are complete (config.read.complete_recipe); they are not checked again."""
        kinds = {"l1": L1, "auxk": AuxK, "jumprelu": JumpReLU}
        parts = {key: kind(**values[key]) for key, kind in kinds.items() if key in values}
        # A file of its own, and a stage of its own.
        values = {key: value for key, value in values.items() if key not in ("start_from", "finetune")}
        return cls(**{**values, **parts})

    def d_sae(self, d_in: int) -> int:
        return self.expansion * d_in


def contradictions(recipe: dict, d_in: int) -> Iterator[str]:
    """Keys of a recipe, as plain values, that ask for more latents than it has on d_in dimensions, each with the remedy."""
    latents = recipe["expansion"] * d_in
    of_them = f"the {latents} latents ({recipe['expansion']} x {d_in})"
    asked = {"k": recipe.get("k")} | {
        f"{section}.{key}": recipe.get(section, {}).get(key)
        for section, key in (("l1", "target_l0"), ("jumprelu", "target_l0"), ("auxk", "latents"))
    }
    for key, value in asked.items():
        if value is not None and value > latents:
            yield f"{key}: {value:g} is more than {of_them}; lower it or raise expansion"
    *most, _ = recipe.get("groups", [1])
    ends = [0, *(round(end * latents) for end in accumulate(most)), latents]  # as saes.matryoshka.ends
    if any(start == stop for start, stop in pairwise(ends)):
        yield f"groups: one of them has none of {of_them}; write larger fractions or raise expansion"


def canonical_lambda(l1: L1, d_out: int, d_sae: int, scale: float) -> float:
    """Lambda of `||x - x_hat||^2 + lambda sum_j f_j ||W_dec_j||` where E||x||^2 = 1; d_out: dimensions of what is rebuilt.

    scale: the normaliser's, 1 / sqrt(E||x - mean||^2) on raw activations. `mean-sum` is (mean over dimensions of the
    squared error) + lambda * (sum of latents) on raw activations, `mean-mean` has the mean of latents.
    """
    factor = {"canonical": 1.0, "mean-sum": d_out * scale, "mean-mean": d_out * scale / d_sae}
    return l1.coefficient * factor[l1.convention]
