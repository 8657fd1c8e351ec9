"""Base models of our own making depend on their tokenizer, their text and how they are trained."""

from sae_atlas.config.own_models import adapter_name, base_of, pretraining
from sae_atlas.stages.base_model import prepared, tokenizer_stage
from sae_atlas.stages.corpus import corpus_settings
from sae_atlas.stages.declare import stage

TRAINING = (
    "lifecycle/fit.py",
    "lifecycle/folder.py",
    "lifecycle/card.py",
    "training/learner.py",
    "training/schedule.py",
)


@stage(
    "base_models/prepare.py",
    "base_models/byte_tokenizer.py",
    "base_models/gguf_llama.py",
    runs="base_models.prepare:make_tokenizer",
)
def make_tokenizer(atlas) -> tuple[dict, dict]:
    return {"tokenizer": pretraining(atlas.config["base_model"])["tokenizer"]}, {}


@stage("lifecycle/pretrain.py", "base_models/from_scratch.py", *TRAINING, runs="lifecycle.pretrain:pretrain")
def pretrain(atlas) -> tuple[dict, dict]:
    section = pretraining(atlas.config["base_model"])
    settings = {key: section[key] for key in ("name", "architecture", "sizes", "seed", "fit")}
    texts = {"tokenizer": atlas.identity("make_tokenizer"), "corpus": atlas.identity("tokenize")}
    return settings | {"text": atlas.config["corpus"]["name"]}, texts


@stage("base_models", runs="base_models.prepare:prepare")
def prepare_base(atlas) -> tuple[dict, dict]:
    return prepared(atlas, base_of(atlas.config["base_model"]), "prepare_base")


@stage("corpus.py", "texts", "io/arrays.py", runs="corpus:tokenize")
def tokenize_domain(atlas) -> tuple[dict, dict]:
    corpus = atlas.config["corpus"] | atlas.config["base_model"]["lora"]["corpus"]
    domain = {key: corpus[key] for key in ("context", "held_out_tokens", "seed")}
    settings = corpus_settings(atlas.config["base_model"]["lora"]["corpus"] | domain)
    return settings, {"base_model": atlas.identity(tokenizer_stage(atlas)), **atlas.content("tokenize_domain")}


@stage("lifecycle/lora.py", "base_models/adapters.py", *TRAINING, runs="lifecycle.lora:fine_tune_lora")
def fine_tune_lora(atlas) -> tuple[dict, dict]:
    base_model = atlas.config["base_model"]
    lora = base_model["lora"]
    settings = {
        "name": adapter_name(base_model),
        "base": base_model["base"]["name"],
        "seed": lora["seed"],
        "lora": {key: lora[key] for key in ("rank", "alpha", "targets")},
        "fit": base_model["fit"],
        "text": lora["corpus"]["name"],
    }
    return settings, {"base_model": atlas.identity("prepare_base"), "corpus": atlas.identity("tokenize_domain")}


@stage(
    "lifecycle/lora.py",
    "base_models/adapters.py",
    "lifecycle/folder.py",
    "lifecycle/card.py",
    runs="lifecycle.lora:merge_lora",
)
def merge_lora(atlas) -> tuple[dict, dict]:
    needed = {"base_model": "prepare_base", "corpus": "tokenize_domain", "adapter": "fine_tune_lora"}
    return {"name": atlas.config["base_model"]["name"]}, {name: atlas.identity(of) for name, of in needed.items()}
