# What all rules share: the checked config, the grid of the atlas, and small input functions.
import os
import re
import sys
from pathlib import Path

import yaml
from snakemake.utils import validate

# Scripts run in processes of their own (and in conda environments); they find the library beside this workflow.
LIBRARY = str(Path(str(workflow.current_basedir)).parents[1])
sys.path.insert(0, LIBRARY)
os.environ.update(PYTHONPATH=os.pathsep.join(filter(None, [LIBRARY, os.getenv("PYTHONPATH")])))

from sae_atlas.cards.names import release_name, sae_name
from sae_atlas.errors import AtlasError
from sae_atlas.files import hold_lock
from sae_atlas.plan.atlas import Atlas
from sae_atlas.plan.config import check_config, resolve_config

SCHEMA = workflow.source_path("../schemas/config.schema.yaml")
FIGURES = ["1_training_curves", "2_metrics_heatmap"]


def read_config():
    """The config, checked and resolved; a mistake ends the run before any job starts, without a traceback."""
    with open(SCHEMA) as file:
        schema = yaml.safe_load(file)
    try:
        check_config(config, schema, (workflow.configfiles or ["config"])[-1])
        validate(config, SCHEMA)  # fills in the defaults
        return resolve_config(config)
    except AtlasError as error:
        sys.exit(f"{error}")


atlas = Atlas(read_config())
CORPUS = f"results/corpus/{atlas.config['corpus']['name']}.zarr"
PROVENANCE = "results/base_model/provenance.json"
BASE, SITE = atlas.config["base_model"]["name"], atlas.config["activations"]["site"]
RELEASES = {release_name(BASE, atlas.expansion(recipe), recipe): recipe for recipe in atlas.recipes}
SAES = {
    sae_name(BASE, SITE, layer, atlas.expansion(recipe), atlas.tokens, recipe): {"recipe": recipe, "layer": layer}
    for recipe in atlas.recipes
    for layer in atlas.layers
}


wildcard_constraints:
    recipe="|".join(map(re.escape, atlas.recipes)),
    layer=r"\d\d+",
    snapshot="|".join(atlas.snapshots),
    group="|".join(atlas.groups),
    sae="|".join(map(re.escape, SAES)),
    release="|".join(map(re.escape, RELEASES)),


def cell(wildcards):
    """The cell a job stands for, as arguments of Atlas: layers are numbers there."""
    if "sae" in wildcards.keys():
        return SAES[wildcards.sae]
    if "release" in wildcards.keys():
        return {"recipe": RELEASES[wildcards.release]}
    return {name: int(value) if name == "layer" else value for name, value in wildcards.items()}


def settings(stage):
    """The stage's settings for a job, as params: exactly what its numbers depend on."""
    return lambda wildcards: atlas.settings(stage, **cell(wildcards))


def inputs(stage):
    """Identities that the stage must find in its inputs."""
    return lambda wildcards: atlas.inputs(stage, **cell(wildcards))


def code(stage):
    """Hash of the modules that determine the stage's numbers: Snakemake does not see imported modules."""
    return atlas.code(stage)


def growing(amount):
    """A resource that grows with every attempt at the job."""
    return lambda wildcards, attempt: amount * attempt


def trained(cells):
    """Checkpoints of all recipes for these (layer, snapshot) cells."""
    return [
        f"results/checkpoints/{recipe}/sae_layer{layer:02d}_{snapshot}.pt"
        for recipe in atlas.recipes
        for layer, snapshot in cells
    ]


def previous_resume_point(wildcards):
    """Where the chain stands before this window; nothing for the first."""
    previous = atlas.previous(wildcards.snapshot)
    if previous is None:
        return []
    return f"results/checkpoints/{wildcards.recipe}/sae_layer{wildcards.layer}_{previous}.resume.pt"


# One run at a time in a folder. Snakemake's own lock outlives a killed run; this one ends with its process.
onstart:
    try:
        hold_lock("results/.lock")
    except BlockingIOError:
        sys.exit(f"{Path('results').absolute()}: another run is at work here; wait for it or stop it first.")
