"""The recipe: one SAE training configuration. It is the config's keys, what is saved, and what is checked."""

import math
from dataclasses import asdict, dataclass, fields

from sae_atlas.errors import AtlasError, listed, nearest
from sae_atlas.sizes import parse_size

ARCHITECTURES = ("relu", "topk", "batch_topk", "jumprelu", "gated", "matryoshka")
CONVENTIONS = ("canonical", "mean-sum", "mean-mean")
TOPK = ("topk", "batch_topk", "matryoshka")

# Keys that only some architectures use. Elsewhere they would do nothing, so there they are an error.
USED_BY = {
    "l1": ("relu", "gated"),
    "sparsity_warmup": ("relu", "gated", "jumprelu"),
    "k": TOPK,
    "auxk": TOPK,
    "jumprelu": ("jumprelu",),
    "groups": ("matryoshka",),
}

# Sizes and schedule that belong together; a recipe's own keys win. `standard` is the recipe of SAEBench.
PRESETS = {
    "quick": {
        "expansion": 8,
        "batch": 512,
        "learning_rate": 2e-3,
        "warmup": 20,
        "sparsity_warmup": 20,
        "dead_after": 10_000,
    },
    "standard": {},
    "full": {"expansion": 32, "batch": 4096, "learning_rate": 2e-4, "warmup": 1000, "sparsity_warmup": 5000},
}


@dataclass(frozen=True)
class L1:
    """Penalty on the sum of latents."""

    coefficient: float = 0.015  # lambda, in the convention below; where it starts if a target is given
    convention: str = "canonical"  # canonical | mean-sum | mean-mean: see canonical_lambda
    target_l0: float | None = None  # latents per token; a controller then moves lambda. None: lambda is fixed


@dataclass(frozen=True)
class AuxK:
    """Extra reconstruction of the error by dead latents, which revives them (arXiv 2406.04093, appendix A.2)."""

    coefficient: float = 1 / 32  # weight, relative to the variance of the error; 0: none
    latents: int | None = None  # dead latents used per token; None: half of the input dimensions


@dataclass(frozen=True)
class JumpReLU:
    """Penalty coefficient (l0 / target_l0 - 1)^2 and the width of its pseudo-derivative (arXiv 2407.14435)."""

    target_l0: float = 32  # latents per token
    coefficient: float = 1.0  # weight of the penalty
    bandwidth: float = 1e-3  # width of the kernel, in units of pre-activations where E||x||^2 = 1
    threshold: float = 1e-3  # where every threshold starts, same unit


@dataclass(frozen=True)
class Recipe:
    """Field names are the config's keys under `recipes.<name>`. Defaults are those of the SAEBench suite."""

    architecture: str  # one of ARCHITECTURES
    expansion: int = 16  # latents per input dimension
    seed: int = 0  # of the initial decoder directions, which differ from layer to layer
    batch: int = 2048  # tokens per step
    learning_rate: float = 3e-4  # of Adam, after the warm-up
    adam_betas: tuple[float, float] = (0.9, 0.999)  # decay rates of Adam's two averages
    warmup: int = 1000  # steps over which the learning rate rises linearly from 0
    decay: float = 0.2  # last fraction of all tokens over which the learning rate falls linearly to 0; 0: never
    clip: float = 1.0  # largest norm of the whole gradient
    dead_after: int = 10_000_000  # tokens without firing after which a latent counts as dead
    sparsity_warmup: int = 5000  # steps over which the sparsity penalty rises linearly from 0
    l1: L1 = L1()
    k: int = 32  # active latents per token
    auxk: AuxK = AuxK()
    jumprelu: JumpReLU = JumpReLU()
    groups: tuple[float, ...] = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 17 / 32)  # fractions of the latents, nested, sum 1

    @classmethod
    def from_dict(cls, values: dict, where: str = "recipe") -> "Recipe":
        """The recipe of a config's or checkpoint's plain `values`; `where` is the key path that errors name.

        Raises AtlasError, one line per problem: unknown key, key the architecture does not use, wrong type or range.
        """
        problems: list[str] = []
        values = dict(values)
        preset = values.pop("preset", "standard")
        if preset not in PRESETS:
            problems.append(f"{where}.preset: {preset!r} is not a preset; {nearest(preset, PRESETS)}")
        name = values.get("architecture")
        if name not in ARCHITECTURES:
            problems.append(f"{where}.architecture: {name!r} is not one; {nearest(name, ARCHITECTURES)}")
            raise AtlasError("\n".join(problems))
        chosen = {key: value for key, value in PRESETS.get(preset, {}).items() if _used(key, name)} | values
        known = [field.name for field in fields(cls)]
        parsed = {}
        for key, value in chosen.items():
            if key not in known:
                problems.append(f"{where}.{key}: no such key; {nearest(key, known)}")
            elif not _used(key, name):
                problems.append(f"{where}.{key}: does nothing with architecture `{name}`; remove it")
            else:
                parsed[key] = _parse(key, value, f"{where}.{key}", problems)
        if problems:
            raise AtlasError("\n".join(problems))
        return cls(**parsed)

    def to_dict(self) -> dict:
        """Plain values of every key this architecture uses, in the order above; from_dict gives the recipe back."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
            if _used(key, self.architecture)
        }

    def d_sae(self, d_in: int) -> int:
        return self.expansion * d_in


def canonical_lambda(l1: L1, d_in: int, d_sae: int, scale: float) -> float:
    """Lambda of `||x - x_hat||^2 + lambda sum_j f_j ||W_dec_j||` where E||x||^2 = 1.

    scale: the normaliser's, 1 / sqrt(E||x - mean||^2) on raw activations. `mean-sum` is (mean over dimensions of the
    squared error) + lambda * (sum of latents) on raw activations, `mean-mean` has the mean of latents.
    """
    factor = {"canonical": 1.0, "mean-sum": d_in * scale, "mean-mean": d_in * scale / d_sae}
    return l1.coefficient * factor[l1.convention]


GROUPED = {"l1": L1, "auxk": AuxK, "jumprelu": JumpReLU}


def _used(key: str, architecture: str) -> bool:
    return architecture in USED_BY.get(key, ARCHITECTURES)


def _parse(key: str, value: object, where: str, problems: list[str]) -> object:
    """The value as the dataclass holds it; what is wrong with it goes to `problems`."""
    if key not in GROUPED:
        return _checked(key, value, where, problems)
    if not isinstance(value, dict):
        problems.append(
            f"{where}: {value!r} does not fit; it has the keys {listed(f.name for f in fields(GROUPED[key]))}"
        )
        return None
    known = [field.name for field in fields(GROUPED[key])]
    parsed = {}
    for inner, inner_value in value.items():
        if inner not in known:
            problems.append(f"{where}.{inner}: no such key; {nearest(inner, known)}")
        else:
            parsed[inner] = _checked(f"{key}.{inner}", inner_value, f"{where}.{inner}", problems)
    if key == "auxk" and parsed.get("coefficient") == 0 and parsed.get("latents") is not None:
        problems.append(f"{where}.latents: does nothing where auxk.coefficient is 0; remove it")
    return GROUPED[key](**parsed)


# What a value must be: kind, test, and the words that say it.
POSITIVE = (float, lambda v: v > 0, "a number above 0")
FROM_ZERO = (float, lambda v: v >= 0, "a number from 0")
COUNT = (int, lambda v: v >= 1, "a whole number from 1 (4096, 10M)")
STEPS = (int, lambda v: v >= 0, "a whole number of steps from 0")
RULES = {
    "expansion": COUNT,
    "seed": (int, lambda v: v >= 0, "a whole number from 0"),
    "batch": COUNT,
    "learning_rate": POSITIVE,
    "warmup": STEPS,
    "decay": (float, lambda v: 0 <= v <= 1, "a fraction from 0 to 1"),
    "clip": POSITIVE,
    "dead_after": COUNT,
    "sparsity_warmup": STEPS,
    "k": COUNT,
    "l1.coefficient": POSITIVE,
    "l1.target_l0": POSITIVE,
    "auxk.coefficient": FROM_ZERO,
    "auxk.latents": COUNT,
    "jumprelu.target_l0": POSITIVE,
    "jumprelu.coefficient": POSITIVE,
    "jumprelu.bandwidth": POSITIVE,
    "jumprelu.threshold": POSITIVE,
}


def _checked(key: str, value: object, where: str, problems: list[str]) -> object:
    if key == "architecture" or (value is None and key in ("l1.target_l0", "auxk.latents")):
        return value
    if key == "l1.convention":
        if value not in CONVENTIONS:
            problems.append(f"{where}: {value!r} is not one; {nearest(value, CONVENTIONS)}")
        return value
    if key == "adam_betas":
        numbers = _numbers(value)
        if numbers is None or len(numbers) != 2 or not all(0 <= each < 1 for each in numbers):
            problems.append(f"{where}: {value!r} does not fit; write two numbers from 0 and below 1, as [0.9, 0.999]")
        return numbers
    if key == "groups":
        numbers = _numbers(value)
        if not numbers or min(numbers) <= 0 or abs(sum(numbers) - 1) > 1e-6:
            problems.append(f"{where}: {value!r} does not fit; write fractions of the latents above 0 that sum to 1")
        return numbers
    kind, test, words = RULES[key]
    number = _number(value, kind)
    if number is None or not test(number):
        problems.append(f"{where}: {value!r} does not fit; write {words}")
    return number


def _number(value: object, kind: type) -> float | int | None:
    if isinstance(value, bool):
        return None
    if kind is int:
        try:
            return parse_size(value) if isinstance(value, (int, str)) else None
        except ValueError:
            return None
    try:
        number = float(value) if isinstance(value, (int, float, str)) else math.nan  # YAML reads 3e-4 as text
    except (ValueError, OverflowError):  # no number, or a whole one that is larger than any of these
        return None
    return number if math.isfinite(number) else None


def _numbers(value: object) -> tuple[float, ...] | None:
    if not isinstance(value, (list, tuple)):
        return None
    numbers = [_number(each, float) for each in value]
    return None if None in numbers else tuple(numbers)
