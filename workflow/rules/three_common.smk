# What workflow/three_stages.smk works with: three configs made of one, where their files lie, what is compared.
import re
import sys
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(str(workflow.current_basedir)).parents[1]))

from sae_atlas.errors import AtlasError
from sae_atlas.files import hold_lock
from sae_atlas.plan.atlas import Atlas
from sae_atlas.plan.config import complete_config
from sae_atlas.plan.lifecycle import folder_of
from sae_atlas.plan.three_stages import COMPARED, identities, three_configs
from sae_atlas.provenance import code_identity, make_record


def read_configs():
    """A config and an atlas per stage; a mistake ends the run before any job starts, without a traceback."""
    with open(workflow.source_path("../schemas/config.schema.yaml")) as file:
        schema = yaml.safe_load(file)
    try:
        configs = three_configs(config)
        file = str((workflow.configfiles or ["config"])[-1])
        return configs, {stage: Atlas(complete_config(each, schema, file)) for stage, each in configs.items()}
    except AtlasError as error:
        sys.exit(f"{error}")


CONFIGS, ATLASES = read_configs()
RECIPES, LAYERS = ATLASES["merged"].recipes, ATLASES["merged"].layers
MODELS = {stage: folder_of(atlas.config["base_model"]) for stage, atlas in ATLASES.items()}
COMPARISONS = {f"{before}_to_{after}": (before, after) for before, after in COMPARED}


def apart(stage):
    """Where the files of an atlas go: all but the models, which the three share."""
    return {f"{folder}/": f"{stage}/{folder}/" for folder in ("results", "models/sae", "models/releases")}


wildcard_constraints:
    recipe="|".join(map(re.escape, RECIPES)),
    comparison="|".join(COMPARISONS),


def side(stage, recipe):
    """Files of an atlas that are compared, by layer."""
    last = ATLASES[stage].last
    return {
        "checkpoints": [f"{stage}/results/checkpoints/{recipe}/sae_layer{layer:02d}_{last}.pt" for layer in LAYERS],
        "latents": [f"{stage}/results/metrics/{recipe}/layer{layer:02d}_latents.parquet" for layer in LAYERS],
        "held_out": f"{stage}/results/held_out.zarr",
    }


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


def comparison_record(comparison, recipe):
    """Of a comparison's table: known before it is made, checked by the page."""
    settings = {"comparison": comparison, "recipe": recipe}
    code = code_identity("metrics/survival.py", "metrics/directions.py", "saes/sae.py", "saes/parts.py")
    return make_record("compare_latents", settings, code, both_identities(comparison, recipe))


onstart:
    try:
        hold_lock("results/.lock")
    except BlockingIOError:
        sys.exit(f"{Path('results').absolute()}: another run is at work here; wait for it or stop it first.")
