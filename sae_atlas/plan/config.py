"""The config: every problem found at once, each with its key and remedy; then sizes as numbers, layers as a list."""

import copy
import itertools
import json
from pathlib import Path
from urllib.parse import urlsplit

import jsonschema
import yaml

from sae_atlas.errors import AtlasError, nearest, reason
from sae_atlas.plan import lifecycle
from sae_atlas.plan.pretrained import check_pretrained
from sae_atlas.sizes import parse_size
from sae_atlas.training.recipe import Recipe

UNTOLD = ("features.names.endpoint.key_variable", "features.names.endpoint.url")  # may hold a key by mistake
SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_in", "mlp_out")
MODEL_KEYS = {
    "hub": (("id",), ("revision",)),
    "package": (("package",), ()),
    "local": (("path",), ()),
    "random": (("architecture", "sizes", "seed", "tokenizer"), ()),
    "pretrain": (("architecture", "seed", "tokenizer", "fit"), ("preset", "sizes")),
    "lora": (("base", "lora", "fit"), ()),
    "merged": (("base", "lora", "fit"), ()),
}
TEXT_KEYS = {
    "hub": (("id",), ("revision", "subset", "split", "field")),
    "package": (("package",), ("topic",)),
    "local": (("path",), ("field",)),
}


def check_config(config: dict, schema: dict, file: str) -> None:
    """Raise AtlasError with one line per problem if `config` breaks the schema or contradicts itself."""
    problems = list(_schema_problems(config, schema))
    if not problems:  # the questions below need a config of the right shape
        problems = list(_contradictions(config))
    if problems:
        raise AtlasError("\n".join(f"{file}: {problem}" for problem in problems))


def read_config(file: str | Path, schema: str | Path) -> dict:
    """The config in `file`, checked, complete and resolved. Raises AtlasError for every mistake in it, also of YAML."""
    try:
        config = yaml.safe_load(Path(file).read_text()) or {}
    except (OSError, yaml.YAMLError) as error:
        raise AtlasError(f"{file}: cannot be read as YAML ({reason(error)})") from error
    return complete_config(config, yaml.safe_load(Path(schema).read_text()), str(file))


def complete_config(config: dict, schema: dict, file: str) -> dict:
    """`config` checked, with the defaults of `schema`, resolved. `file` is named in errors."""
    check_config(config, schema, file)
    filled = with_defaults(config, schema)
    defaults = {
        name: {
            key: about["default"] for key, about in schema["$defs"][name]["properties"].items() if "default" in about
        }
        for name in ("fit", "lora")
    }
    base_model = lifecycle.complete(filled["base_model"], filled["corpus"]["context"], defaults)
    return resolve_config({**filled, "base_model": base_model})


def with_defaults(config: dict, schema: dict) -> dict:
    """A copy in which every key that is not given has the default of the schema, sections included."""
    filled = dict(config)
    for key, about in schema.get("properties", {}).items():
        if key not in filled and "default" in about:
            filled[key] = copy.deepcopy(about["default"])
        if isinstance(filled.get(key), dict):
            filled[key] = with_defaults(filled[key], about)
    return filled


def resolve_config(config: dict) -> dict:
    """The checked config (defaults filled in) with sizes as integers, `layers` as a list, recipes complete.

    Raises AtlasError if the number of layers cannot be told (hub not reachable and `layers: all`).
    """
    corpus, activations, evaluation = config["corpus"], config["activations"], config["evaluation"]
    layers = _layers(activations["layers"], config["base_model"])
    per_pass = min(activations.get("layers_per_pass", len(layers)), len(layers))
    resolved = {
        **config,
        "corpus": {
            **corpus,
            "tokens": parse_size(corpus["tokens"]),
            "held_out_tokens": parse_size(corpus["held_out_tokens"]),
        },
        "activations": {
            **activations,
            "layers": layers,
            "layers_per_pass": per_pass,
            "max_live_stores": activations.get("max_live_stores", 2 * per_pass),
            "shard_rows": parse_size(activations["shard_rows"]),
            "chunk_rows": parse_size(activations["chunk_rows"]),
        },
        "training": {
            "tokens": parse_size(config["training"]["tokens"]),
            "snapshots": [parse_size(size) for size in config["training"]["snapshots"]],
            "gpu_products": config["training"]["gpu_products"],
        },
        "device": config["training"]["device"],  # not among what makes numbers
        "recipes": {name: _complete(recipe, f"recipes.{name}") for name, recipe in config["recipes"].items()},
        "evaluation": {
            **evaluation,
            "tokens": parse_size(evaluation["tokens"]),
            "patched_tokens": parse_size(evaluation["patched_tokens"]),
        },
        **({"floors": _floors(config["floors"])} if "floors" in config else {}),
    }
    if "features" in config:
        features = config["features"]
        chosen = layers if features["layers"] == "all" else _layers(features["layers"], config["base_model"])
        resolved["features"] = {**features, "layers": chosen, "tokens": parse_size(features["tokens"])}
    return resolved


def _floors(floors: dict) -> dict:
    if "students" not in floors:
        return floors
    students = {"widths": floors["widths"], **floors["students"]}
    return {**floors, "students": {**students, "held_out_tokens": parse_size(students["held_out_tokens"])}}


def _schema_problems(config: dict, schema: dict):
    validator = jsonschema.Draft202012Validator(schema)
    for error in sorted(validator.iter_errors(config), key=lambda error: list(map(str, error.absolute_path))):
        key = ".".join(map(str, error.absolute_path))
        if error.validator == "additionalProperties":
            known = error.schema.get("properties", {})
            for extra in sorted(set(error.instance) - set(known)):
                yield f"{_join(key, extra)}: no such key; {nearest(extra, known)}"
        elif error.validator == "required":
            for missing in sorted(set(error.validator_value) - set(error.instance)):
                yield f"{_join(key, missing)}: missing; {_about(error.schema, missing)}"
        elif error.validator in ("enum", "const"):
            allowed = error.schema.get("enum") or [error.schema["const"]]
            yield f"{key}: {error.instance!r} is not allowed; {nearest(error.instance, allowed)}"
        elif (
            error.validator == "type" and "integer" in str(error.validator_value) and isinstance(error.instance, float)
        ):
            yield f"{key}: {error.instance!r} is not a whole number"
        elif key in UNTOLD:
            yield f"{key}: what it holds does not fit; {error.schema['description']}"
        elif error.validator in ("pattern", "oneOf", "type", "minProperties"):
            yield f"{key}: {error.instance!r} does not fit; {error.schema.get('description') or error.message}"
        else:
            yield f"{key}: {error.message}"


def _about(schema: dict, key: str) -> str:
    return schema["properties"].get(key, {}).get("description") or "it has no default"


def _join(parent: str, key: str) -> str:
    return f"{parent}.{key}" if parent else str(key)


def _contradictions(config: dict):
    of_model = list(_model_problems(config["base_model"], config["corpus"]))
    yield from of_model
    if of_model:  # its layers cannot be told
        return
    shared = ("name", "source", "context", "tokens", "held_out_tokens", "seed")
    yield from _source_problems("corpus", config["corpus"], TEXT_KEYS, shared)
    yield from _snapshot_problems(config)
    yield from _activation_problems(config)
    yield from _evaluation_problems(config)
    if "students" in config.get("floors", {}):
        yield from _student_problems(config)
    yield from _features_problems(config)
    for name, recipe in config["recipes"].items():
        try:
            _complete(recipe, f"recipes.{name}")
        except AtlasError as error:
            yield from str(error).splitlines()


def _complete(recipe: dict, where: str) -> dict:
    """The recipe with its defaults; raises AtlasError with a line per problem."""
    return check_pretrained(recipe, where) if "pretrained" in recipe else Recipe.from_dict(recipe, where).to_dict()


def _source_problems(section: str, values: dict, keys: dict, shared: tuple):
    required, optional = keys[values["source"]]
    for key in required:
        if key not in values:
            yield f"{section}.{key}: missing; source `{values['source']}` needs it"
    for key in values:
        if key not in (*required, *optional, *shared):
            yield f"{section}.{key}: does nothing with source `{values['source']}`; remove it"


def _model_problems(base_model: dict, corpus: dict):
    found = list(_source_problems("base_model", base_model, MODEL_KEYS, shared=("name", "source", "dtype")))
    if "base" in base_model:
        found += _source_problems("base_model.base", base_model["base"], MODEL_KEYS, shared=("name", "source"))
    if "lora" in base_model:
        shared = ("name", "source", "tokens")
        found += _source_problems("base_model.lora.corpus", base_model["lora"]["corpus"], TEXT_KEYS, shared)
    return found or lifecycle.problems(base_model, corpus)


def _snapshot_problems(config: dict):
    snapshots = [parse_size(size) for size in config["training"].get("snapshots", [])]
    if any(later <= earlier for earlier, later in itertools.pairwise(snapshots)):
        yield "training.snapshots: not ascending; list the token counts from small to large, each once"
    if config["training"].get("device") == "cpu" and "gpu_products" in config["training"]:
        yield "training.gpu_products: does nothing with device `cpu`; remove it"
    tokens = parse_size(config["training"]["tokens"])
    corpus = parse_size(config["corpus"]["tokens"])
    if tokens > corpus and not all("pretrained" in recipe for recipe in config["recipes"].values()):
        yield f"training.tokens: {tokens} is beyond the corpus ({corpus}); raise corpus.tokens or train on fewer"
    if snapshots and max(snapshots) >= tokens:
        yield f"training.snapshots: {max(snapshots)} is not below training.tokens ({tokens}), where the final snapshot lies"


def _activation_problems(config: dict):
    activations = config.get("activations", {})
    site = activations.get("site", "resid_post")
    if site not in SITES and "{layer}" not in site:
        yield f"activations.site: no site {site!r}; {nearest(site, SITES)} Or give a module path with {{layer}} in it"
    layers = activations.get("layers", "all")
    try:
        count = (
            count_layers(config["base_model"]) if layers == "all" or config["base_model"]["source"] != "hub" else None
        )
        chosen = _layers(layers, config["base_model"])
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
    shard, chunk = parse_size(activations.get("shard_rows", 65536)), parse_size(activations.get("chunk_rows", 4096))
    if shard % chunk:
        yield f"activations.shard_rows: {shard} is not a multiple of chunk_rows ({chunk})"
    yield from _precision_problems(activations)


def _precision_problems(activations: dict):
    dtype = activations.get("dtype", "float16")
    if dtype != "bitround":
        if "keep_bits" in activations:
            yield f"activations.keep_bits: does nothing with dtype `{dtype}`; remove it"
        return
    if "keep_bits" not in activations:
        yield "activations.keep_bits: missing; dtype `bitround` needs it (1 to 9)"
    if activations.get("compression", "none") == "none":
        yield "activations.compression: `none` with dtype `bitround` saves no bytes; set zstd"


def _evaluation_problems(config: dict):
    evaluation = config.get("evaluation", {})
    held_out = parse_size(config["corpus"].get("held_out_tokens", "16k"))
    tokens = parse_size(evaluation.get("tokens", "8k"))
    if tokens > held_out:
        yield f"evaluation.tokens: {tokens} is more than corpus.held_out_tokens ({held_out})"
    if parse_size(evaluation.get("patched_tokens", "2k")) > tokens:
        yield f"evaluation.patched_tokens: more than evaluation.tokens ({tokens})"


def _student_problems(config: dict):
    floors, corpus = config["floors"], config["corpus"]
    students = {
        "widths": floors["widths"],
        "batch": 16,
        "evaluations": 20,
        "held_out_tokens": "4k",
        **floors["students"],
    }
    for width in students["widths"]:
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
    held_out = parse_size(corpus.get("held_out_tokens", "16k"))
    if parse_size(students["held_out_tokens"]) > held_out:
        yield f"floors.students.held_out_tokens: more than corpus.held_out_tokens ({held_out})"


def _features_problems(config: dict):
    features = config.get("features", {})
    if features.get("split") == "held_out" and "tokens" in features:
        yield "features.tokens: does nothing with split `held_out`, which reads evaluation.tokens; remove it"
    tokens, corpus = parse_size(features.get("tokens", 1)), parse_size(config["corpus"]["tokens"])
    if tokens > corpus:
        yield f"features.tokens: {tokens} is beyond the corpus ({corpus}); raise corpus.tokens or read fewer"
    endpoint = features.get("names", {}).get("endpoint", {})
    url = urlsplit(endpoint.get("url", ""))
    if "key_variable" in endpoint and url.scheme == "http" and url.hostname not in ("localhost", "127.0.0.1", "::1"):
        yield f"features.names.endpoint.url: {url.hostname} would get the key unencrypted; use https"
    if features.get("layers", "all") == "all":
        return
    try:
        there = _layers(config.get("activations", {}).get("layers", "all"), config["base_model"])
    except AtlasError:  # told where activations.layers is looked at
        return
    chosen = _layers(features["layers"], config["base_model"])
    missing = [layer for layer in chosen if layer not in there]
    if missing:
        yield f"features.layers: layer {missing[0]} is not among activations.layers; there is no SAE of it"
    if not chosen:
        yield f"features.layers: {features['layers']!r} names no layer; write it from small to large"


def _layers(layers, base_model: dict) -> list[int]:
    if layers == "all":
        return list(range(count_layers(base_model)))
    if isinstance(layers, str):
        first, last = map(int, layers.split("-"))
        return list(range(first, last + 1))
    return sorted(layers)


def count_layers(base_model: dict) -> int:
    """Blocks of the base model, from its own config. Raises AtlasError if that cannot be read."""
    base_model = lifecycle.base_of(base_model)
    if base_model["source"] == "package":
        from sae_atlas.base_models.packages import find_model

        return find_model(base_model["package"]).n_layers
    if base_model["source"] == "random":
        config = base_model["sizes"]
    elif base_model["source"] == "pretrain":
        config = lifecycle.model_sizes(base_model, context=0)  # which says nothing of the layers
    elif base_model["source"] == "local":
        file = Path(base_model["path"]) / "config.json"
        if not file.is_file():
            raise AtlasError(f"base_model.path: {file} is not there; give a folder in transformers format")
        config = json.loads(file.read_text())
    else:
        config = _hub_config(base_model)
    for key in ("num_hidden_layers", "n_layer"):
        if key in config:
            return config[key]
    raise AtlasError("activations.layers: the model's config does not say how many layers it has; list them")


def _hub_config(base_model: dict) -> dict:
    from huggingface_hub import hf_hub_download

    try:
        return json.loads(
            Path(hf_hub_download(base_model["id"], "config.json", revision=base_model.get("revision"))).read_text()
        )
    except Exception as error:
        raise AtlasError(
            f"activations.layers: `all` needs the config of {base_model['id']} from the hub, which gave "
            f"{type(error).__name__}; check the id and the network, or list the layers (`0-23`)"
        ) from error
