"""Base models that our own rules make: which of them a config needs, what they are called, where they lie.

A section `base_model` with source `pretrain` is one of them; with `lora` or `merged` it stands on its `base`, a section
of the same form with any other source.
"""

from dataclasses import replace

from sae_atlas.base_models.from_scratch import PRESETS, model_sizes
from sae_atlas.base_models.names import ARCHITECTURES, FineTunedName, parse_fine_tuned, parse_pretrained
from sae_atlas.errors import AtlasError
from sae_atlas.sizes import format_size, parse_size

TUNED = ("lora", "merged")
MADE = ("pretrain", *TUNED)


def base_of(base_model: dict) -> dict:
    """The section of the model that is tuned; the section itself where nothing is."""
    return base_model["base"] if base_model["source"] in TUNED else base_model


def pretraining(base_model: dict) -> dict | None:
    """The section that is trained from scratch, if there is one."""
    base = base_of(base_model)
    return base if base["source"] == "pretrain" else None


def adapter_name(base_model: dict) -> str:
    """Name of the LoRA of a tuned model."""
    name = base_model["name"]
    if base_model["source"] == "lora":
        return name
    if base_model["base"]["source"] == "pretrain":
        return str(replace(parse_pretrained(name), training_type="lora"))
    return str(replace(parse_fine_tuned(name), lora=True))


def kind_of(base_model: dict) -> str:
    """Folder under models/ in which it lies: `pretrained`, or `fine_tuned` for fine-tunes of others' models."""
    return "pretrained" if base_of(base_model)["source"] == "pretrain" else "fine_tuned"


def folder_of(base_model: dict) -> str | None:
    """Where our rules write the model of a section; None where they do not make it."""
    return f"models/{kind_of(base_model)}/{base_model['name']}" if base_model["source"] in MADE else None


def complete(base_model: dict, context: int) -> dict:
    """The checked section, its defaults filled in, with sizes as numbers, a preset as sizes; and so its base.

    context: tokens of a context of the corpus: the positions that a model from scratch gets.
    """
    found = dict(base_model)
    if "fit" in found:
        found["fit"] = {**found["fit"], "tokens": parse_size(found["fit"]["tokens"])}
    if "lora" in found:
        lora = found["lora"]
        found["lora"] = {**lora, "corpus": {**lora["corpus"], "tokens": parse_size(lora["corpus"]["tokens"])}}
    if "base" in found:
        found["base"] = complete(found["base"], context)
    if found["source"] == "pretrain":
        found["sizes"] = model_sizes(found, context)
        found.pop("preset", None)
    return found


def problems(base_model: dict, corpus: dict, where: str = "base_model"):
    """What contradicts itself in a section whose keys are right."""
    source = base_model["source"]
    if source == "pretrain":
        if base_model["architecture"] not in ("gpt2", "gpt_neox"):
            yield f"{where}.architecture: {base_model['architecture']} is not trained from scratch; take gpt2 or gpt_neox"
            return
        if ("preset" in base_model) == ("sizes" in base_model):
            yield f"{where}.preset: give either a preset ({', '.join(PRESETS)}) or sizes"
    if source in TUNED:
        if base_model["base"]["source"] in TUNED:
            yield f"{where}.base.source: to tune a fine-tune, give source `local` and the folder of the merged model"
            return
        if base_model["base"]["source"] == "restoration":
            yield f"{where}.base.source: `restoration` predicts no next token, which is what is tuned here; give another"
            return
        of_base = list(problems(base_model["base"], corpus, f"{where}.base"))
        yield from of_base
        if of_base:  # its name, on which this one builds, may be wrong
            return
    fit = base_model.get("fit")
    if fit and fit["batch"] % fit["accumulation"]:
        yield f"{where}.fit.accumulation: {fit['accumulation']} passes do not part the batch evenly; choose a divisor"
    if source in MADE:
        try:
            yield from _name_problems(base_model, corpus, where)
        except AtlasError as error:
            yield f"{where}.name: {error}"


def _name_problems(base_model: dict, corpus: dict, where: str):
    source, name, base = base_model["source"], base_model["name"], base_of(base_model)
    if kind_of(base_model) == "fine_tuned":
        tokens = format_size(parse_size(base_model["fit"]["tokens"]))
        wanted = FineTunedName(base["name"], base_model["lora"]["corpus"]["name"], tokens, source == "lora")
        if parse_fine_tuned(name) != wanted:
            yield f"{where}.name: {name!r} is not what it is; call it {wanted}"
        return
    said = parse_pretrained(name)
    wanted = replace(said, dataset=corpus["name"], training_type=source)
    if ARCHITECTURES[said.architecture] != base["architecture"]:
        names = [short for short, long in ARCHITECTURES.items() if long == base["architecture"]]
        wanted = replace(wanted, architecture=names[0])
    if base is not base_model:
        of_base = parse_pretrained(base["name"])
        domain = f"{of_base.dataset}-to-{base_model['lora']['corpus']['name']}"
        wanted = replace(wanted, architecture=of_base.architecture, size=of_base.size, dataset=domain)
    if said != wanted:
        yield f"{where}.name: {name!r} is not what it is; call it {wanted}"
