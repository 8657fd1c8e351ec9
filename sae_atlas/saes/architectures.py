"""What the rest of the library knows of every architecture. Without torch: cards, plans and the config read it.

The loss and the gradients are in the module of the same name in this room; keys of a recipe that are not named here mean the
same for all.
"""

from typing import NamedTuple


class Architecture(NamedTuple):
    label: str  # in cards, tables and figures
    keys: tuple[str, ...]  # keys of a recipe that only some architectures use
    # Which pre-activations are latents: `topk`: the k largest; `relu`: above 0; `threshold`: above the latent's threshold;
    # `pursuit`: k one after the other, each with the largest product of its decoder row and what those before leave.
    inference: str
    # Norm of an encoder row at the start. Adam moves a weight by the learning rate whatever its size: rows that start shorter
    # turn sooner, and fewer latents die. JumpReLU's thresholds are tied to the size of pre-activations.
    encoder_norm: float = 0.3

    @property
    def has_k(self) -> bool:
        """Whether `k` limits the latents of a token at inference, too."""
        return self.inference in ("topk", "pursuit")


ARCHITECTURES = {
    "relu": Architecture("ReLU with L1 penalty", ("l1", "sparsity_warmup"), "relu"),
    "topk": Architecture("TopK", ("k", "auxk"), "topk"),
    "batch_topk": Architecture("BatchTopK", ("k", "auxk"), "threshold"),
    "jumprelu": Architecture("JumpReLU", ("jumprelu", "sparsity_warmup"), "threshold", encoder_norm=1.0),
    "gated": Architecture("Gated", ("l1", "sparsity_warmup"), "threshold"),
    "matryoshka": Architecture("Matryoshka BatchTopK", ("k", "auxk", "groups"), "threshold"),
    "matching_pursuit": Architecture("Matching pursuit", ("k",), "pursuit"),
}


def uses(architecture: str, key: str) -> bool:
    """Whether a key of a recipe that only some architectures use has an effect with this one."""
    return key in ARCHITECTURES[architecture].keys


def users(key: str) -> list[str]:
    """The architectures with which such a key has an effect."""
    return [name for name in ARCHITECTURES if uses(name, key)]


def sparsity_words(recipe: dict) -> str:
    """What makes a recipe sparse, in a few words."""
    kind = ARCHITECTURES[recipe["architecture"]]
    if "pretrained" in recipe:
        return f"k = {recipe['k']} latents per token" if kind.has_k else "as its source trained it"
    if "l1" in kind.keys:
        l1 = recipe["l1"]
        start = f"L1 coefficient {l1['coefficient']:g} ({l1['convention']})"
        steered = "fixed" if l1["target_l0"] is None else f"adapted to L0 {l1['target_l0']:g}"
        return f"{start}, {steered}" + (f", power annealed to {l1['anneal_to']:g}" if "anneal_to" in l1 else "")
    if "jumprelu" in kind.keys:
        return f"L0 penalty with target {recipe['jumprelu']['target_l0']:g}"
    return f"k = {recipe['k']} latents per token" + ("" if kind.has_k else " on average")
