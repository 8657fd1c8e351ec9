# What workflow/three_stages.smk works with: three configs made of one, where their files lie, what is compared.
import re
import sys

from sae_atlas.base_models.adapters import META
from sae_atlas.config.own_models import folder_of
from sae_atlas.io.errors import AtlasError
from sae_atlas.stages.base_model import MAKERS
from sae_atlas.lifecycle.survival.configs import COMPARED, identities, three_configs
from sae_atlas.io.provenance import identity

try:
    CONFIGS = three_configs(config)
    ATLASES = {stage: read_atlas(each, lambda path, stage=stage: f"{stage}/{path}") for stage, each in CONFIGS.items()}
    if len(dtypes := {each.config["base_model"]["dtype"] for each in ATLASES.values()}) > 1:
        raise AtlasError(f"base_model.dtype: the three were begun in {' and '.join(sorted(dtypes))}; write one of them")
except AtlasError as error:  # before any job, without a traceback
    sys.exit(f"{error}")

RECIPES, LAYERS = ATLASES["merged"].recipes, ATLASES["merged"].layers
MODELS = {stage: f"{folder_of(atlas.config['base_model'])}/{META}" for stage, atlas in ATLASES.items()}
COMPARISONS = {f"{before}_to_{after}": (before, after) for before, after in COMPARED}


def apart(stage):
    """Where the files of an atlas go: all but the models, which the three share."""
    return {f"{folder}/": f"{stage}/{folder}/" for folder in ("results", "models/sae", "models/releases")}


wildcard_constraints:
    recipe="|".join(map(re.escape, RECIPES)),
    comparison="|".join(COMPARISONS),


def current(path, carried):
    """An input that carries this identity, unless jobs are asked for again: then Snakemake decides."""
    asked = workflow.dag_settings
    MUST_CARRY[path] = [carried]
    return path if asked.forceall or asked.forcerun else current_or_made(path, [carried])


def side(stage, recipe):
    """Files of an atlas that are compared, by layer."""
    last, carried = ATLASES[stage].last, identities(ATLASES[stage], recipe)
    paths = {
        "checkpoints": f"{stage}/results/checkpoints/{recipe}/sae_layer{{:02d}}_{last}.pt",
        "latents": f"{stage}/results/metrics/{recipe}/layer{{:02d}}_latents.parquet",
    }
    files = {
        kind: [current(path.format(layer), carried[kind][layer]) for layer in LAYERS] for kind, path in paths.items()
    }
    held_out = f"{stage}/results/held_out.zarr/layer{{:02d}}/zarr.json"
    return files | {"held_out": [current(held_out.format(layer), carried["held_out"]) for layer in LAYERS]}


def both_sides(wildcards):
    """Inputs of a comparison: before_checkpoints, after_checkpoints, ..."""
    stages = dict(zip(("before", "after"), COMPARISONS[wildcards.comparison]))
    found = {name: side(stage, wildcards.recipe) for name, stage in stages.items()}
    return {f"{name}_{kind}": files for name, each in found.items() for kind, files in each.items()}


def both_identities(comparison, recipe):
    """What a comparison must find in its inputs."""
    return {
        name: identities(ATLASES[stage], recipe) for name, stage in zip(("before", "after"), COMPARISONS[comparison])
    }


COMPARE = {
    "stage": "compare_latents",
    "version": "1",  # raised when it gives other numbers
    "runs": "lifecycle.survival.compare:compare_latents",
    "modules": ("lifecycle/survival/compare.py", "metrics/directions.py", "saes/sae.py", "saes/parts.py"),
}
PAGE = {
    "stage": "survival_page",
    "version": "1",
    "runs": "lifecycle.survival.page:write_page",
    "modules": ("lifecycle/survival/page.py", "lifecycle/survival/figure.py", "pages", "figures/style.py"),
}


def depends_on(stage, recipe, comparison=None):
    """Settings and inputs of a comparison, or of a recipe's page of all comparisons."""
    if stage is COMPARE:
        return {"comparison": comparison, "recipe": recipe}, both_identities(comparison, recipe)
    colours = ATLASES["merged"].config["figures"]["colour_map"]
    return {"recipe": recipe, "colour_map": colours}, {name: identity_of(COMPARE, recipe, name) for name in COMPARISONS}


def identity_of(stage, recipe, comparison=None):
    settings, inputs = depends_on(stage, recipe, comparison)
    return identity(stage["stage"], settings, stage["version"], inputs)


def job(stage, **arguments):
    """The params of a job (sae_atlas/stages/job.py). arguments: of its function, beside the rule's files."""

    def depends(wildcards):
        settings, inputs = depends_on(stage, **dict(wildcards.items()))
        return {**stage, "settings": settings, "inputs": inputs, "arguments": arguments}

    return {"job": depends, "expects": expected}


def tables_of(wildcards):
    """Tables of all comparisons of a recipe."""
    return [
        current(f"results/survival/{wildcards.recipe}/{name}.parquet", identity_of(COMPARE, wildcards.recipe, name))
        for name in COMPARISONS
    ]


def models_compared(wildcards):
    """What stands for the folders of the three models."""
    makers = {stage: MAKERS[atlas.config["base_model"]["source"]] for stage, atlas in ATLASES.items()}
    return [current(path, ATLASES[stage].identity(makers[stage])) for stage, path in MODELS.items()]


def pages(wildcards):
    """The page of every recipe."""
    return [current(f"results/survival/{recipe}/index.html", identity_of(PAGE, recipe)) for recipe in RECIPES]
