"""Tiny base models of our own making, outside the workflow."""

import json

from sae_atlas.base_models.from_scratch import model_sizes
from sae_atlas.base_models.load import load_tokenizer
from sae_atlas.base_models.prepare import make_tokenizer, prepare
from sae_atlas.corpus import tokenize
from sae_atlas.lifecycle.lora import fine_tune_lora, merge_lora
from sae_atlas.lifecycle.pretrain import pretrain
from sae_atlas.provenance import make_record

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


def record(stage, **inputs):
    return make_record(stage, {}, "", inputs)


def identity(stage, **inputs):
    return record(stage, **inputs)["identity"]


def texts(folder, pets=("cat", "dog", "goldfish"), name="pets"):
    """A tokenizer and a corpus of simple sentences."""
    make_tokenizer(folder / "tokenizer.json", "bytes", record("make_tokenizer"))
    documents = [f"The {pet} number {n} sleeps beside its {n % 7} friends." for n in range(200) for pet in pets]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    tokenize(
        folder / f"{name}.zarr",
        load_tokenizer(folder / "tokenizer.json"),
        {"source": "local", "path": str(folder / f"{name}.jsonl")},
        context=CONTEXT,
        train_tokens=8000,
        held_out_tokens=600,
        seed=0,
        record=record("tokenize"),
    )
    return folder / f"{name}.zarr"


def pretrained(folder, architecture="gpt2", name=None, fit=FIT):
    """models/pretrained/<name> in `folder`, trained on `texts`."""
    made = folder / "models" / "pretrained" / (name or NAMES[architecture])
    sizes = model_sizes({"architecture": architecture, "sizes": SIZES[architecture]}, CONTEXT)
    settings = {"name": made.name, "architecture": architecture, "sizes": sizes, "seed": 0, "fit": fit, "text": "pets"}
    expects = {"tokenizer": identity("make_tokenizer"), "corpus": identity("tokenize")}
    pretrain(folder / "tokenizer.json", folder / "pets.zarr", made, settings, record("pretrain"), expects, "cpu")
    return made


def prepared(folder, made, source="pretrain", stage="pretrain"):
    """Provenance of the folder of a rule, as the chain reads it."""
    provenance = folder / "results" / f"{source}.json"
    prepare(provenance, {"source": source}, record("prepare_base", made=identity(stage)), made)
    return provenance


def tuned(folder, made, name, fit=FIT, lora=LORA):
    """An adapter of the model in `made`, tuned on `texts` of horses."""
    settings = {"name": name, "base": made.name, "seed": 0, "lora": lora, "fit": fit, "text": "horses"}
    expects = {"base_model": identity("prepare_base", made=identity("pretrain")), "corpus": identity("tokenize")}
    adapter = made.parent / name
    source = prepared(folder, made)
    fine_tune_lora(source, folder / "horses.zarr", adapter, settings, record("fine_tune_lora"), expects, "cpu")
    return adapter


def merged(folder, made, adapter, name):
    expects = {"base_model": identity("prepare_base", made=identity("pretrain")), "corpus": identity("tokenize")}
    expects["adapter"] = identity("fine_tune_lora")
    whole = made.parent / name
    source = prepared(folder, made)
    merge_lora(source, adapter, folder / "horses.zarr", whole, record("merge_lora"), expects, "cpu")
    return whole
