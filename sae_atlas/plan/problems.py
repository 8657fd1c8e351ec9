"""Where a config of the right shape contradicts itself or asks for what is not there."""

import itertools
from urllib.parse import urlsplit

from sae_atlas.errors import AtlasError, nearest
from sae_atlas.plan import lifecycle
from sae_atlas.plan.blocks import count_layers, named_layers
from sae_atlas.plan.recipes import complete_recipe
from sae_atlas.sites import SITES
from sae_atlas.sizes import parse_size

# source -> keys it needs, keys it may have
MODEL_KEYS = {
    "hub": (("id",), ("revision",)),
    "package": (("package",), ()),
    "local": (("path",), ()),
    "restoration": (("path",), ()),
    "random": (("architecture", "sizes", "seed", "tokenizer"), ()),
    "pretrain": (("architecture", "seed", "tokenizer", "fit"), ("preset", "sizes")),
    "lora": (("base", "lora", "fit"), ()),
    "merged": (("base", "lora", "fit"), ()),
}
ELSEWHERE = ("hub", "restoration")  # where counting layers takes a download, or torch to read a file
TEXT_KEYS = {
    "hub": (("id",), ("revision", "subset", "split", "field")),
    "package": (("package",), ("topic",)),
    "local": (("path",), ("field",)),
}


def contradictions(given: dict, config: dict):
    """Lines that name key and remedy. given: the config as written, of the schema's shape; config: with its defaults."""
    of_model = list(_model_problems(given["base_model"], config))
    yield from of_model
    if of_model:  # its layers cannot be told
        return
    shared = ("name", "source", "context", "tokens", "held_out_tokens", "seed")
    yield from _source_problems("corpus", given["corpus"], TEXT_KEYS, shared)
    yield from _training_problems(given["training"], config)
    yield from _activation_problems(config)
    yield from _evaluation_problems(config)
    if "students" in config.get("floors", {}):
        yield from _student_problems(config)
    if "features" in config:
        yield from _features_problems(given["features"], config)
    for name, recipe in config["recipes"].items():
        try:
            complete_recipe(recipe, f"recipes.{name}")
        except AtlasError as error:
            yield from str(error).splitlines()


def _source_problems(section: str, values: dict, keys: dict, shared: tuple):
    required, optional = keys[values["source"]]
    for key in required:
        if key not in values:
            yield f"{section}.{key}: missing; source `{values['source']}` needs it"
    for key in values:
        if key not in (*required, *optional, *shared):
            yield f"{section}.{key}: does nothing with source `{values['source']}`; remove it"


def _model_problems(base_model: dict, config: dict):
    shared = ("name", "source", "dtype", "device_map")
    found = list(_source_problems("base_model", base_model, MODEL_KEYS, shared))
    if base_model["source"] == "lora" and "device_map" in base_model:
        found.append(
            "base_model.device_map: an adapter is put on whole models only; remove it, or give source `merged`"
        )
    if "base" in base_model:
        found += _source_problems("base_model.base", base_model["base"], MODEL_KEYS, shared=("name", "source"))
    if "lora" in base_model:
        shared = ("name", "source", "tokens")
        found += _source_problems("base_model.lora.corpus", base_model["lora"]["corpus"], TEXT_KEYS, shared)
    return found or lifecycle.problems(config["base_model"], config["corpus"])


def _training_problems(given: dict, config: dict):
    training = config["training"]
    snapshots = [parse_size(size) for size in training["snapshots"]]
    if any(later <= earlier for earlier, later in itertools.pairwise(snapshots)):
        yield "training.snapshots: not ascending; list the token counts from small to large, each once"
    if training["device"] == "cpu" and "gpu_products" in given:
        yield "training.gpu_products: does nothing with device `cpu`; remove it"
    if training["device"] == "cpu" and "device_map" in config["base_model"]:
        yield "base_model.device_map: takes the GPUs that there are, training.device is `cpu`; remove one of them"
    tokens = parse_size(training["tokens"])
    corpus = parse_size(config["corpus"]["tokens"])
    if tokens > corpus and not all("pretrained" in recipe for recipe in config["recipes"].values()):
        yield f"training.tokens: {tokens} is beyond the corpus ({corpus}); raise corpus.tokens or train on fewer"
    if snapshots and max(snapshots) >= tokens:
        yield f"training.snapshots: {max(snapshots)} is not below training.tokens ({tokens}), where the final snapshot lies"


def _activation_problems(config: dict):
    activations = config["activations"]
    site, layers = activations["site"], activations["layers"]
    if site not in SITES and "{layer}" not in site:
        yield f"activations.site: no site {site!r}; {nearest(site, SITES)} Or give a module path with {{layer}} in it"
    try:
        told = layers == "all" or config["base_model"]["source"] not in ELSEWHERE
        count = count_layers(config["base_model"]) if told else None
        chosen = named_layers(layers, config["base_model"])
    except AtlasError as error:
        yield str(error)
        return
    beyond = [layer for layer in chosen if count is not None and layer >= count]
    if beyond:
        yield f"activations.layers: no layer {beyond[0]}; {config['base_model']['name']} has layers 0 to {count - 1}"
    if not chosen:
        yield f"activations.layers: {layers!r} names no layer; write it from small to large"
    per_pass = min(activations.get("layers_per_pass", len(chosen)), len(chosen))
    if activations.get("max_live_stores", per_pass) < per_pass:
        yield f"activations.max_live_stores: one pass alone makes {per_pass} stores; raise it or lower layers_per_pass"
    shard, chunk = parse_size(activations["shard_rows"]), parse_size(activations["chunk_rows"])
    if shard % chunk:
        yield f"activations.shard_rows: {shard} is not a multiple of chunk_rows ({chunk})"
    yield from _precision_problems(activations)


def _precision_problems(activations: dict):
    dtype = activations["dtype"]
    if dtype != "bitround":
        if "keep_bits" in activations:
            yield f"activations.keep_bits: does nothing with dtype `{dtype}`; remove it"
        return
    if "keep_bits" not in activations:
        yield "activations.keep_bits: missing; dtype `bitround` needs it (1 to 9)"
    if activations["compression"] == "none":
        yield "activations.compression: `none` with dtype `bitround` saves no bytes; set zstd"


def _evaluation_problems(config: dict):
    held_out = parse_size(config["corpus"]["held_out_tokens"])
    tokens = parse_size(config["evaluation"]["tokens"])
    if tokens > held_out:
        yield f"evaluation.tokens: {tokens} is more than corpus.held_out_tokens ({held_out})"
    if parse_size(config["evaluation"]["patched_tokens"]) > tokens:
        yield f"evaluation.patched_tokens: more than evaluation.tokens ({tokens})"


def _student_problems(config: dict):
    floors, corpus = config["floors"], config["corpus"]
    if config["base_model"]["source"] == "restoration":
        yield "floors.students: learn to predict what comes next, which a model of source `restoration` does not; remove"
        return
    students = floors["students"]
    for width in students.get("widths", floors["widths"]):
        if width % 8:
            yield f"floors.students.widths: {width} is no multiple of 8; list widths that are"
        elif width not in floors["widths"]:
            yield f"floors.students.widths: no floor is predicted for {width}; add it to floors.widths"
    if students["evaluations"] > students["steps"]:
        yield f"floors.students.evaluations: more than floors.students.steps ({students['steps']})"
    read = students["steps"] * students["batch"] * (corpus["context"] - 1)  # position 0 begins the document
    if read > parse_size(corpus["tokens"]):
        yield (
            f"floors.students.steps: {students['steps']} steps of {students['batch']} contexts read up to {read} tokens, the "
            f"corpus has {parse_size(corpus['tokens'])}; raise corpus.tokens or take fewer"
        )
    held_out = parse_size(corpus["held_out_tokens"])
    if parse_size(students["held_out_tokens"]) > held_out:
        yield f"floors.students.held_out_tokens: more than corpus.held_out_tokens ({held_out})"


def _features_problems(given: dict, config: dict):
    features, corpus = config["features"], parse_size(config["corpus"]["tokens"])
    if features["split"] == "held_out" and "tokens" in given:
        yield "features.tokens: does nothing with split `held_out`, which reads evaluation.tokens; remove it"
    tokens = parse_size(features["tokens"])
    if "tokens" in given and tokens > corpus:  # the default is cut to what is there
        yield f"features.tokens: {tokens} is beyond the corpus ({corpus}); raise corpus.tokens or read fewer"
    endpoint = features["names"].get("endpoint", {})
    url = urlsplit(endpoint.get("url", ""))
    if "key_variable" in endpoint and url.scheme == "http" and url.hostname not in ("localhost", "127.0.0.1", "::1"):
        yield f"features.names.endpoint.url: {url.hostname} would get the key unencrypted; use https"
    if features["layers"] == "all":
        return
    try:
        there = named_layers(config["activations"]["layers"], config["base_model"])
    except AtlasError:  # told where activations.layers is looked at
        return
    chosen = named_layers(features["layers"], config["base_model"])
    missing = [layer for layer in chosen if layer not in there]
    if missing:
        yield f"features.layers: layer {missing[0]} is not among activations.layers; there is no SAE of it"
    if not chosen:
        yield f"features.layers: {features['layers']!r} names no layer; write it from small to large"
