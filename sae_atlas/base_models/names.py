"""Names of model folders: what they say, and whether what lies in the folder agrees.

`models/pretrained/{architecture}-{size}-{dataset}-{training_type}[-{version}]`, where a LoRA or merge says
`{dataset}-to-{domain}`; `models/fine_tuned/{base_model}_{domain}_{training_tokens}` for fine-tunes of models that others
published, with `_lora` behind it where the folder holds the adapter alone.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from sae_atlas.io.errors import AtlasError, listed
from sae_atlas.io.sizes import parse_size

ARCHITECTURES = {"gpt2": "gpt2", "gpt": "gpt2", "neox": "gpt_neox", "gpt_neox": "gpt_neox"}  # in names -> transformers
SIZES = ("tiny", "small", "base", "medium", "large")  # where a name gives no number
CLOSE = 0.05  # a size in a name is rounded: 350M stands for 354,823,168 parameters

PRETRAINED = re.compile(
    rf"(?P<architecture>[A-Za-z0-9_]+)-(?P<size>\d+(?:\.\d+)?[kMB]|{'|'.join(SIZES)})-(?P<dataset>[A-Za-z0-9._-]+?)"
    r"-(?P<training_type>pretrain|lora|merged-ft|merged|ft)(?:-(?P<version>v\d+(?:\.\d+)*|\d{8}))?"
)
FINE_TUNED = re.compile(
    r"(?P<base_model>[A-Za-z0-9.-][A-Za-z0-9._-]*)_(?P<domain>[A-Za-z0-9.-]+)_(?P<tokens>\d+[kMB]?)(?P<lora>_lora)?"
)


@dataclass(frozen=True)
class PretrainedName:
    """The parts of a name under models/pretrained."""

    architecture: str
    size: str
    dataset: str  # of a LoRA or merge: what it was pretrained on, -to-, what it was tuned on
    training_type: str
    version: str | None = None

    def __str__(self) -> str:
        parts = (self.architecture, self.size, self.dataset, self.training_type, self.version)
        return "-".join(part for part in parts if part)


@dataclass(frozen=True)
class FineTunedName:
    """The parts of a name under models/fine_tuned."""

    base_model: str
    domain: str
    tokens: str
    lora: bool = False

    def __str__(self) -> str:
        return f"{self.base_model}_{self.domain}_{self.tokens}{'_lora' if self.lora else ''}"


def parse_pretrained(name: str) -> PretrainedName:
    """Raises AtlasError if the name is not of this scheme."""
    match = PRETRAINED.fullmatch(name)
    if not match or match["architecture"] not in ARCHITECTURES:
        raise AtlasError(
            f"{name!r} is no model's name; write {{architecture}}-{{size}}-{{dataset}}-{{training_type}}[-{{version}}], as in "
            f"gpt2-38M-tinystories-pretrain or gpt2-38M-tinystories-to-scientific-lora (architectures: {listed(ARCHITECTURES)})"
        )
    return PretrainedName(**match.groupdict())


def parse_fine_tuned(name: str) -> FineTunedName:
    """Raises AtlasError if the name is not of this scheme."""
    match = FINE_TUNED.fullmatch(name)
    if not match:
        raise AtlasError(
            f"{name!r} is no fine-tune's name; write {{base_model}}_{{domain}}_{{training_tokens}}, as in gpt2-small_medical_1M"
        )
    return FineTunedName(match["base_model"], match["domain"], match["tokens"], bool(match["lora"]))


def written(parameters: int) -> str:
    """The count as names write it: 38393920 -> `38M`, 1812345 -> `1.8M`."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if parameters >= size:
            rounded = f"{parameters / size:.1f}" if parameters < 9.95 * size else f"{parameters / size:.0f}"
            return rounded.removesuffix(".0") + unit
    return f"{parameters / 1000:.1f}k"


def stands_for(size: str, parameters: int) -> bool:
    """Is the count what a size such as 0.8M says: within 5 %, or what it is rounded from?"""
    digits, unit = size[:-1], parse_size(f"1{size[-1]}")
    last_place = unit / 10 ** len(digits.partition(".")[2])
    return abs(parameters - parse_size(size)) <= max(CLOSE * parse_size(size), last_place / 2)


def check_content(folder: Path, architecture: str, parameters: int, training_type: str) -> None:
    """Raise AtlasError if a folder under models/pretrained or models/fine_tuned is called what it is not.

    architecture: transformers' model type; parameters: counted; training_type: pretrain, lora or merged.
    """
    if folder.parent.name == "fine_tuned":
        if parse_fine_tuned(folder.name).lora != (training_type == "lora"):
            raise AtlasError(
                f"{folder}: holds {_article(training_type)}; an adapter's name ends in _lora and a merge's does not"
            )
        return
    if folder.parent.name != "pretrained":
        return
    name = parse_pretrained(folder.name)
    if ARCHITECTURES[name.architecture] != architecture:
        raise AtlasError(f"{folder}: its name says {name.architecture}, it holds {architecture}; rename it")
    if name.training_type.partition("-")[0] != training_type:
        raise AtlasError(f"{folder}: its name says {name.training_type}, it holds {_article(training_type)}; rename it")
    if name.size not in SIZES and not stands_for(name.size, parameters):
        right = PretrainedName(name.architecture, written(parameters), name.dataset, name.training_type, name.version)
        raise AtlasError(f"{folder}: its name says {name.size}, it has {parameters:,} parameters; call it {right}")


def _article(training_type: str) -> str:
    return {"pretrain": "a pretrained model", "lora": "an adapter", "merged": "a merge"}[training_type]
