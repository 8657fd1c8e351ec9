"""The config: every problem found at once, each with its key and remedy; then sizes as numbers, layers as a list."""

import copy
from pathlib import Path

import jsonschema
import yaml

from sae_atlas.devices import SPREAD
from sae_atlas.errors import AtlasError, nearest
from sae_atlas.plan import lifecycle
from sae_atlas.plan.blocks import named_layers
from sae_atlas.plan.limits import limit_problems, read_plain, shortened
from sae_atlas.plan.problems import contradictions
from sae_atlas.plan.recipes import complete_recipe
from sae_atlas.sizes import parse_size

UNTOLD = ("features.names.endpoint.key_variable", "features.names.endpoint.url")  # may hold a key by mistake
FORMATS = jsonschema.FormatChecker(())


@FORMATS.checks("size", raises=ValueError)
def _is_size(value: object) -> bool:
    return not isinstance(value, (int, str)) or parse_size(value) >= 1


def check_config(config: dict, schema: dict, file: str) -> None:
    """Raise AtlasError with one line per problem if `config` breaks the schema or contradicts itself."""
    problems = limit_problems(config) or list(_schema_problems(config, schema))
    if not problems:  # the questions below need a config of the right shape
        problems = list(contradictions(config, with_defaults(config, schema)))
    if problems:
        raise AtlasError("\n".join(f"{file}: {shortened(problem)}" for problem in problems))


def read_config(file: str | Path, schema: str | Path) -> dict:
    """The config in `file`, checked, complete and resolved. Raises AtlasError for every mistake in it, also of YAML."""
    return complete_config(read_plain(file) or {}, yaml.safe_load(Path(schema).read_text()), str(file))


def complete_config(config: dict, schema: dict, file: str) -> dict:
    """`config` checked, with the defaults of `schema`, resolved. `file` is named in errors."""
    check_config(config, schema, file)
    filled = with_defaults(config, schema)
    base_model = lifecycle.complete(filled["base_model"], filled["corpus"]["context"])
    return _resolved({**filled, "base_model": base_model})


def with_defaults(config: dict, schema: dict) -> dict:
    """A copy in which every key that is not given has the default of the schema, sections included."""
    return _filled(config, schema, schema)


def _filled(section: dict, about: dict, schema: dict) -> dict:
    filled = dict(section)
    for key, of_key in about.get("properties", {}).items():
        if key not in filled and "default" in of_key:
            filled[key] = copy.deepcopy(of_key["default"])
        if isinstance(filled.get(key), dict):
            filled[key] = _filled(filled[key], _followed(of_key, schema), schema)
    return filled


def _followed(about: dict, schema: dict) -> dict:
    """What a `$ref` into the schema itself stands for, or `about`."""
    for step in about.get("$ref", "").split("/")[1:]:  # "#/$defs/fit"
        schema = schema[step]
    return schema if "$ref" in about else about


def _resolved(config: dict) -> dict:
    """The checked config (defaults filled in) with sizes as integers, `layers` as a list, recipes complete.

    Raises AtlasError if the number of layers cannot be told (hub not reachable and `layers: all`).
    """
    corpus, activations, evaluation = config["corpus"], config["activations"], config["evaluation"]
    base_model = {key: value for key, value in config["base_model"].items() if key != "device_map"}
    layers = named_layers(activations["layers"], base_model)
    per_pass = min(activations.get("layers_per_pass", len(layers)), len(layers))
    resolved = {
        **config,
        "base_model": base_model,
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
        "device": config["training"]["device"],  # not among what makes numbers, nor is where the base model lies
        "model_device": SPREAD if "device_map" in config["base_model"] else config["training"]["device"],
        "recipes": {name: complete_recipe(recipe, f"recipes.{name}") for name, recipe in config["recipes"].items()},
        "evaluation": {
            **evaluation,
            "tokens": parse_size(evaluation["tokens"]),
            "patched_tokens": parse_size(evaluation["patched_tokens"]),
        },
        **({"floors": _floors(config["floors"])} if "floors" in config else {}),
    }
    if "features" in config:
        features = config["features"]
        chosen = layers if features["layers"] == "all" else named_layers(features["layers"], config["base_model"])
        tokens = min(parse_size(features["tokens"]), resolved["corpus"]["tokens"])
        resolved["features"] = {**features, "layers": chosen, "tokens": tokens}
    return resolved


def _floors(floors: dict) -> dict:
    if "students" not in floors:
        return floors
    students = {"widths": floors["widths"], **floors["students"]}
    return {**floors, "students": {**students, "held_out_tokens": parse_size(students["held_out_tokens"])}}


def _schema_problems(config: dict, schema: dict):
    validator = jsonschema.Draft202012Validator(schema, format_checker=FORMATS)
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
        elif error.validator in ("pattern", "oneOf", "type", "minProperties", "format"):
            yield f"{key}: {error.instance!r} does not fit; {error.schema.get('description') or error.message}"
        else:
            yield f"{key}: {error.message}"


def _about(schema: dict, key: str) -> str:
    return schema["properties"].get(key, {}).get("description") or "it has no default"


def _join(parent: str, key: str) -> str:
    return f"{parent}.{key}" if parent else str(key)
