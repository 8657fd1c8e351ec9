"""Tiny base models of our own making, outside the workflow."""

import json

from sae_atlas.base_models.adapters import META
from sae_atlas.base_models.from_scratch import model_sizes
from sae_atlas.base_models.prepare import make_tokenizer, prepare
from sae_atlas.corpus import tokenize
from sae_atlas.io.provenance import make_record, recording
from sae_atlas.lifecycle.lora import fine_tune_lora, merge_lora
from sae_atlas.lifecycle.pretrain import pretrain

CONTEXT = 32
SIZES = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2},
    "gpt_neox": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
}
NAMES = {"gpt2": "gpt2-35k-pets-pretrain", "gpt_neox": "neox-33k-pets-pretrain"}
FIT = {
    "tokens": 12_000,
    "batch": 16,
    "accumulation": 2,
    "learning_rate": 1e-2,
    "warmup": 4,
    "weight_decay": 0.1,
    "clip": 1.0,
    "validations": 4,
}
LORA = {"rank": 2, "alpha": 4, "targets": None}


def texts(folder, pets=("cat", "dog", "goldfish"), name="pets"):
    """A tokenizer and a corpus of simple sentences."""
    make_tokenizer(folder / "tokenizer.json", "bytes")
    documents = [f"The {pet} number {n} sleeps beside its {n % 7} friends." for n in range(200) for pet in pets]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    tokenize(
        folder / "tokenizer.json",
        folder / f"{name}.zarr",
        {"source": "local", "path": str(folder / f"{name}.jsonl")},
        context=CONTEXT,
        train_tokens=8000,
        held_out_tokens=600,
        seed=0,
    )
    return folder / f"{name}.zarr"


def pretrained(folder, architecture="gpt2", name=None, fit=FIT):
    """models/pretrained/<name> in `folder`, trained on `texts`."""
    made = folder / "models" / "pretrained" / (name or NAMES[architecture])
    sizes = model_sizes({"architecture": architecture, "sizes": SIZES[architecture]}, CONTEXT)
    settings = {"name": made.name, "architecture": architecture, "sizes": sizes, "seed": 0, "fit": fit, "text": "pets"}
    with recording(make_record("pretrain", settings, "", {})):
        pretrain(folder / "tokenizer.json", folder / "pets.zarr", made / META, "cpu", **settings)
    return made


def prepared(folder, made, source="pretrain"):
    """Provenance of the folder of a rule, as the chain reads it."""
    provenance = folder / "results" / f"{source}.json"
    prepare(provenance, made / META, source=source)
    return provenance


def tuned(folder, made, name, fit=FIT, lora=LORA):
    """An adapter of the model in `made`, tuned on `texts` of horses."""
    settings = {"name": name, "base": made.name, "seed": 0, "lora": lora, "fit": fit, "text": "horses"}
    adapter = made.parent / name
    with recording(make_record("fine_tune_lora", settings, "", {})):
        fine_tune_lora(prepared(folder, made), folder / "horses.zarr", adapter / META, "cpu", **settings)
    return adapter


def merged(folder, made, adapter, name):
    whole = made.parent / name
    merge_lora(prepared(folder, made), adapter / META, folder / "horses.zarr", whole / META, name, "cpu")
    return whole
