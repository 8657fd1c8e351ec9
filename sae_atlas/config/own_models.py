"""Base models that rules of this workflow make: which of them a config needs, their names and folders.

A section `base_model` with source `pretrain` is one of them; with `lora` or `merged` it has a `base`, a section of the same
form with any other source.
"""

from dataclasses import replace

from sae_atlas.base_models.names import parse_fine_tuned, parse_pretrained

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
    """Folder in which rules write the model of a section; None where they do not make it."""
    return f"models/{kind_of(base_model)}/{base_model['name']}" if base_model["source"] in MADE else None
