"""The section `recipes`: configurations that train SAEs, and those that take SAEs of others."""

import re
from pathlib import Path
from string import Formatter
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from sae_atlas.config.activations import Activations
from sae_atlas.config.base_model import Model
from sae_atlas.config.choice import ANY
from sae_atlas.config.keys import (
    ByLayer,
    HubId,
    Real,
    Revision,
    Section,
    Switch,
    Text,
    Whole,
    Words,
    is_used,
    key,
    later,
)
from sae_atlas.config.layers import WIDTHS, stated
from sae_atlas.config.published import EXAMPLES, FILES
from sae_atlas.config.releases import release_named
from sae_atlas.config.start_from import StartFrom
from sae_atlas.config.without_model import OF_ROWS
from sae_atlas.io.errors import AtlasError
from sae_atlas.saes.architectures import ARCHITECTURES, users
from sae_atlas.sites import SITES
from sae_atlas.training.recipe import CONVENTIONS, contradictions

SPECIFICATION = re.compile(r"(0?[0-9]d)?")  # of a layer's digits; more may be as wide as memory

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


def _whole_of_them(fractions: list[float]) -> list[float]:
    if not fractions or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError
    return fractions


Rate = Annotated[Real, Field(ge=0, lt=1)]
Rates = Annotated[
    list[Rate], Field(min_length=2, max_length=2), Words("two numbers from 0 and below 1", "[0.9, 0.999]")
]
Values = Annotated[dict[str, list], Words("keys with lists of values")]
Fractions = Annotated[
    list[Real], AfterValidator(_whole_of_them), Words("fractions of the latents above 0 that sum to 1")
]


class L1(Section):
    """Penalty on the sum of latents."""

    coefficient: Real = key(
        "lambda, in the convention of the next key (see below). Where a target is given it starts there", 0.015, gt=0
    )
    convention: Literal[*CONVENTIONS] = key("what lambda multiplies (see below)", "canonical")
    target_l0: Annotated[Real, Field(gt=0)] | None = key(
        "latents per token that lambda is steered to", None, otherwise="none: lambda is fixed"
    )
    anneal_to: Real = key(
        "of `relu`: power p of the penalty sum of f^p at the end of training. For a tenth of the tokens it is 1, then it falls "
        "(arXiv 2408.00113)",
        otherwise="p stays 1",
        gt=0,
        lt=1,
    )


class AuxK(Section):
    """Extra reconstruction of the error by dead latents, which revives them (arXiv 2406.04093, appendix A.2)."""

    coefficient: Real = key("weight, relative to the variance of the error. With 0 there is none", 1 / 32, ge=0)
    latents: Annotated[Whole, Field(ge=1)] | None = key(
        "dead latents used per token", None, otherwise="half of the input dimensions"
    )


class JumpReLU(Section):
    """Penalty coefficient (L0 / target - 1)^2 and the width of its pseudo-derivative (arXiv 2407.14435)."""

    target_l0: Real = key("latents per token", 32.0, gt=0)
    coefficient: Real = key("weight of the penalty", 1.0, gt=0)
    bandwidth: Real = key(
        "width of the kernel, in units of pre-activations where E||x||^2 = 1. The default is for long runs: with 0.1 here and "
        "as `threshold`, 120k tokens of three layers of the embedded model left a tenth of the dead latents, at an FVU 0.01 "
        "higher",
        1e-3,
        gt=0,
    )
    threshold: Real = key("where every threshold starts, in the same unit", 1e-3, gt=0)


class FineTune(Section):
    """The last tokens minimise what the base model loses, too, when it reads the reconstruction (arXiv 2503.17272)."""

    loss: Literal["kl"] = key(
        "what is minimised beside the recipe's own loss: `kl`, KL(clean || patched) of the model's predictions, weighted in "
        "every step so that it pulls at the reconstruction as strongly as the squared error",
        "kl",
    )
    tokens: Whole = key(
        "the last of `training.tokens`; fewer than the last window has. What the window trains on before comes from its "
        "shuffled store, so some of its tokens are read twice and as many never",
        ge=1,
    )


class Recipe(Section):
    """One SAE training configuration. Defaults are those of the SAEBench suite."""

    CHOICE: ClassVar[str] = "architecture"

    architecture: Literal[*ARCHITECTURES] = key("kind of SAE")
    preset: Literal[*PRESETS] = key(
        "sizes and schedule together; keys given beside it win. `quick`, for small data: expansion 8, batch 512, learning rate "
        "2e-3, warm-ups of 20 steps, `dead_after` 10k. `standard`, as SAEBench: the defaults of this table. `full`: expansion "
        "32, batch 4096, learning rate 2e-4, `warmup` 1000, `sparsity_warmup` 5000",
        "standard",
        exclude=True,
    )
    expansion: Whole = key("latents per input dimension", 16, ge=1)
    seed: Whole = key("seed of the initial decoder directions, which differ from layer to layer", 0, ge=0)
    batch: Whole = key("tokens per step", 2048, ge=1)
    learning_rate: Real = key("learning rate of Adam, after the warm-up", 3e-4, gt=0)
    adam_betas: Rates = key("decay rates of Adam's two averages", [0.9, 0.999])
    warmup: Whole = key("steps over which the learning rate rises linearly from 0", 1000, ge=0)
    decay: Real = key(
        "last fraction of all tokens over which the learning rate falls linearly to 0. With 0 it never does",
        0.2,
        ge=0,
        le=1,
    )
    clip: Real = key("largest norm of the whole gradient", 1.0, gt=0)
    dead_after: Whole = key(
        "tokens without firing after which a latent counts as dead. AuxK then begins to revive it", 10_000_000, ge=1
    )
    sparsity_warmup: Whole = key(
        "steps over which the sparsity penalty rises linearly from 0", 5000, used_by=users("sparsity_warmup"), ge=0
    )
    l1: L1 = key(None, L1, used_by=users("l1"))
    k: Whole = key("active latents per token", 32, used_by=users("k"), ge=1)
    auxk: AuxK = key(None, AuxK, used_by=users("auxk"))
    jumprelu: JumpReLU = key(None, JumpReLU, used_by=users("jumprelu"))
    groups: Fractions = key(
        "nested groups, as fractions of the latents", [1 / 32, 1 / 16, 1 / 8, 1 / 4, 17 / 32], used_by=users("groups")
    )
    skip: Switch = later(
        "a linear connection from the input to the output, beside the latents (arXiv 2501.18823); of transcoders", False
    )

    start_from: StartFrom = key(otherwise="random directions")
    finetune: FineTune = key(otherwise="all tokens minimise the recipe's loss alone")
    sweep: Values = key(
        "a list of values for some keys (`k`, `seed`, `l1.coefficient`): a recipe of its own for every combination, named "
        "after them (`NAME-k16-seed0`)",
        otherwise="one recipe",
    )

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, values: object) -> object:
        """Add the preset's keys that the architecture uses. An unknown preset is left, to be reported as a wrong value."""
        if not isinstance(values, dict) or values.get("preset", "standard") not in list(PRESETS):
            return values
        preset = PRESETS[values.get("preset", "standard")]
        used = {name for name, field in cls.model_fields.items() if is_used(field, values.get("architecture"))}
        return {name: value for name, value in preset.items() if name in used} | values

    def plain(self) -> dict:
        """Keys that the architecture does not use are absent."""
        fields = type(self).model_fields
        return {name: value for name, value in super().plain().items() if is_used(fields[name], self.architecture)}


class Pretrained(Section):
    """Where the published SAEs lie."""

    CHOICE: ClassVar[str] = "source"

    source: Literal["hub", "local", "release"] = key(
        "`hub`, `local` (a folder) or `release` (one that SAELens lists, see below)",
        otherwise="`release` where one is named",
    )
    release: Text = key("name of a release: `sae-atlas releases` lists them", needed_by=["release"])
    sae: ByLayer = key(
        "id of the SAE in the release, with `{layer}` in it; `*` stands for any characters but `/`. Or a map from layer to id",
        needed_by=["release"],
    )
    id: HubId = key("repository", needed_by=["hub"])
    revision: Revision = key("branch, tag or commit", otherwise="`main`", used_by=["hub", "release"])
    path: Text = key("folder of the release", needed_by=["local"])
    format: Literal[*FILES] = key(
        "how they are written: `atlas` (a release made here), `saelens`, `sparsify`, `dictionary_learning`, or one of "
        "docs/formats.md, which says whose each is",
        needed_by=["hub", "local"],
    )
    file: ByLayer = key(
        "the SAE's file or folder in the release, with `{layer}` or `{layer:02d}` in it, and with `{snapshot}` if there is one "
        "per snapshot of `training`, named as there and `final`; `*` stands for any characters but `/`. Or a map from layer to "
        "path",
        otherwise="; ".join(f"{kind}: `{file}`" for kind, file in FILES.items() if file),
        used_by=["hub", "local"],
    )
    l0: Annotated[Real, Field(gt=0)] = key(
        "where `*` in `sae` or `file` fits several: latents per token that are wanted; the nearest is taken (see below)",
        otherwise="only one may fit",
    )
    tokens: Whole = key("train tokens of the final SAEs, for their names", otherwise="`training.tokens`", ge=1)


class Published(Section):
    """A recipe that trains nothing: its SAEs are those that others published."""

    CHOICE: ClassVar[str] = "architecture"

    architecture: Literal[*ARCHITECTURES] = key("kind of SAE")
    expansion: Annotated[Whole, Field(ge=1)] | None = key(
        "latents per input dimension, as the published SAEs have them", otherwise="as the SAEs' own files say"
    )
    k: Whole = key(
        "active latents per token, as the published SAEs have them",
        needed_by=[name for name, kind in ARCHITECTURES.items() if kind.has_k],
        ge=1,
    )
    pretrained: Pretrained = key()

    def plain(self) -> dict:
        values = super().plain()
        usual = {} if self.pretrained.source == "release" else {"file": FILES[self.pretrained.format]}
        return values | {"pretrained": usual | values["pretrained"]}


def with_source(recipe: dict) -> dict:
    """The recipe as it is written, with the source of its SAEs where a release is named and no source is."""
    pretrained = recipe["pretrained"]
    if not isinstance(pretrained, dict) or "release" not in pretrained or "source" in pretrained:
        return recipe
    return recipe | {"pretrained": {"source": "release", **pretrained}}


def trained_problems(recipe: Recipe, where: str):
    if recipe.auxk.coefficient == 0 and recipe.auxk.latents is not None:
        yield f"{where}.auxk.latents: does nothing where auxk.coefficient is 0; remove it"
    if recipe.architecture != "relu" and recipe.l1.anneal_to is not None:
        yield f"{where}.l1.anneal_to: does nothing with {recipe.architecture}; remove it, or take architecture relu"


def published_problems(recipe: Published, where: str):
    pretrained, where = recipe.pretrained, f"{where}.pretrained"
    if pretrained.source is None:
        yield f"{where}.source: missing; write `hub` or `local`, or name a `release`"
        return
    if pretrained.source == "release":
        yield from _release_problems(pretrained.release, f"{where}.release")
        yield from _name_problems(pretrained.sae, f"{where}.sae", ("layer",))
        is_choice = ANY in str(pretrained.sae)
    else:
        yield from _file_problems(pretrained, where)
        is_choice = isinstance(pretrained.file, str) and ANY in pretrained.file
    if pretrained.l0 is not None and not is_choice:
        yield f"{where}.l0: does nothing where each SAE is named; remove it, or write `*` for what is to be chosen"


def _file_problems(pretrained: Pretrained, where: str):
    if pretrained.source == "local" and not Path(pretrained.path).expanduser().is_dir():
        yield f"{where}.path: {pretrained.path!r} is no folder here; give the folder of the release"
    elif pretrained.source == "local" and "{" in str(Path(pretrained.path).expanduser().absolute()):
        yield f"{where}.path: {pretrained.path!r} lies under a name with a brace, which Snakemake fills in; rename the folder"
    file, where = pretrained.file or FILES[pretrained.format], f"{where}.file"
    if file is None:
        yield f"{where}: missing; format `{pretrained.format}` needs it, such as {EXAMPLES[pretrained.format]}"
        return
    yield from _name_problems(file, where, ("layer", "snapshot"))


def _release_problems(name: str, where: str):
    try:
        refusal = release_named(name).refusal
    except AtlasError as error:
        yield f"{where}: {error}"
        return
    if refusal:
        yield f"{where}: {name} is refused: {refusal}; `sae-atlas releases` lists what is read"


def _name_problems(by_layer: str | dict[str, str], where: str, fields: tuple[str, ...]):
    """fields: what a pattern may hold in braces."""
    if isinstance(by_layer, str):
        yield from _pattern_problems(by_layer, where, fields)
        return
    for layer, name in by_layer.items():
        if "{" in name or "}" in name:
            yield f"{where}.{layer}: {name!r} has a brace; in a map write each name as it is"
        elif _leads_out(name):
            yield f"{where}.{layer}: {name!r} leads out of the release; name a file inside it"


def _pattern_problems(pattern: str, where: str, fields: tuple[str, ...]):
    try:
        parsed = [field for _, *field, _ in Formatter().parse(pattern) if field[0] is not None]
        if any(name not in fields or not SPECIFICATION.fullmatch(said) for name, said in parsed):
            raise ValueError
        names = {pattern.format(layer=layer, snapshot="final") for layer in (0, 1)}
    except ValueError:  # a brace alone, another name, or a number's format for the snapshot
        allowed = " and ".join(["layer ({layer:02d})", *fields[1:]])
        yield f"{where}: {pattern!r} does not fit; in braces it may hold {allowed}"
        return
    if _leads_out(pattern):
        yield f"{where}: {pattern!r} leads out of the release; name a file inside it, and its folder as `path`"
    elif len(names) == 1:
        yield f"{where}: {pattern!r} names the same SAE for every layer; write {{layer}} in it"
    elif ANY in pattern and any(name == "snapshot" for name, _ in parsed):
        yield f"{where}: {pattern!r} has both `*` and {{snapshot}}; name the files of all snapshots without `*`"


def _leads_out(name: str) -> bool:
    return name.startswith(("/", "~")) or ".." in name.split("/")


def finetune_problems(training: Section, base_model: Model, corpus: Section, recipes: dict):
    """Lines for recipes whose fine-tuning does not fit the last window, or whose model predicts no next token."""
    last = training.tokens - max([0, *training.snapshots])
    for name, recipe in recipes.items():
        if getattr(recipe, "finetune", None) is None or base_model.source in OF_ROWS:  # of which saved.py tells
            continue
        where, tokens = f"recipes.{name}.finetune", recipe.finetune.tokens
        least = max(recipe.batch, corpus.context)
        if not least <= tokens <= last - recipe.batch:
            yield (
                f"{where}.tokens: {tokens} does not fit into the last window of {last}; write at least {least} (a batch or a "
                f"context) and leave a batch ({recipe.batch}) to the training before, or change training.snapshots"
            )
        if base_model.source == "restoration":
            yield f"{where}: {base_model.name} predicts the tokens that it reads, not the next; remove it"


def width_problems(recipes: dict, base_model: Model, activations: Activations):
    """Lines for recipes that ask for more latents than there are, where the width of the site is known beforehand."""
    width = stated(base_model.plain(), WIDTHS) if activations.site in SITES else None
    if width is None:
        return
    for name, recipe in recipes.items():
        if recipe.expansion is not None:  # stated by the files of a published SAE
            yield from (f"recipes.{name}.{line}" for line in contradictions(recipe.plain(), width))


def transcoder_problems(recipes: dict, activations: Activations):
    """Lines for what only transcoders have, and for what they cannot be."""
    for name, recipe in recipes.items():
        if activations.target is None and getattr(recipe, "skip", False):
            yield f"recipes.{name}.skip: only a transcoder has a skip connection; remove it or name activations.target"
        if activations.target is not None and ARCHITECTURES[recipe.architecture].inference == "pursuit":
            yield (
                f"recipes.{name}.architecture: an SAE of {recipe.architecture} encodes with its decoder, and so cannot predict "
                "another site; choose another architecture or remove activations.target"
            )
