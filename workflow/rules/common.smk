# What all rules share: the checked config, the grid of the atlas, and small input functions.
import os
import re
import sys
from functools import cache
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
from sae_atlas.provenance import found_identity

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


# A store is temporary, so to make it again for one recipe is "an updated input" to the training of all others, and ancient()
# does not stop that: Snakemake heeds it only for files that exist, and then overlooks the job's own changed params. So an
# input that has been used up is left out where the output made of it carries the identity asked for.
FORCED = workflow.dag_settings and (workflow.dag_settings.forceall or workflow.dag_settings.forcerun)


def made(record, stage, **cell):
    """Is the output whose record lies at `record` there, and the one asked for?"""
    return not FORCED and found_identity(record) == atlas.identity(stage, **cell)


def store_to_train_on(wildcards):
    """The window's store, unless this snapshot and what follows it are made."""
    if must_train(**cell(wildcards)):
        return f"results/stores/layer{wildcards.layer}/{wildcards.snapshot}.zarr"
    return []


@cache
def must_train(recipe, layer, snapshot):
    """Is the snapshot missing, of another identity, or is its deleted resume point needed for a later one?"""
    stem = f"results/checkpoints/{recipe}/sae_layer{layer:02d}_{snapshot}"
    if not Path(f"{stem}.pt").is_file() or not made(
        f"{stem}.json", "train_sae", recipe=recipe, layer=layer, snapshot=snapshot
    ):
        return True
    if Path(f"{stem}.resume.pt").is_file():
        return False
    return snapshot == atlas.last or must_train(recipe, layer, atlas.following(snapshot))


def held_out_to_measure_on(wildcards):
    """The held-out data, unless the layer has been measured on them."""
    record = f"results/metrics/{wildcards.recipe}/layer{wildcards.layer}.json"
    return [] if made(record, "evaluate_sae", **cell(wildcards)) else "results/held_out.zarr"


# One run at a time in a folder. Snakemake's own lock outlives a killed run; this one ends with its process.
onstart:
    try:
        hold_lock("results/.lock")
    except BlockingIOError:
        sys.exit(f"{Path('results').absolute()}: another run is at work here; wait for it or stop it first.")
