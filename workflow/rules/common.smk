# What all rules share: the checked config, the grid of the atlas, and small input functions.
import os
import re
import sys
from functools import cache
from itertools import takewhile
from pathlib import Path

import yaml

# Scripts run in processes of their own (and in conda environments); they find the library beside this workflow.
LIBRARY = str(Path(str(workflow.current_basedir)).parents[1])
sys.path.insert(0, LIBRARY)
os.environ.update(PYTHONPATH=os.pathsep.join(filter(None, [LIBRARY, os.getenv("PYTHONPATH")])))

# Where jobs are sent to there may be no internet: nothing waits for it there. What fetches runs where the run was started.
if workflow.remote_exec:
    os.environ["HF_HUB_OFFLINE"] = "1"

from sae_atlas.devices import gpus_for
from sae_atlas.errors import AtlasError
from sae_atlas.files import hold_lock
from sae_atlas.plan.atlas import Atlas
from sae_atlas.plan.config import complete_config
from sae_atlas.plan.jobs import jobs
from sae_atlas.plan.lifecycle import TUNED, adapter_name, base_of, folder_of, kind_of, pretraining
from sae_atlas.plan.pretrained import place
from sae_atlas.plan.stages.explorer import TABLES as EXPLORED
from sae_atlas.plan.stages.explorer import shown
from sae_atlas.provenance import code_identity, found_identity

SCHEMA = workflow.source_path("../schemas/config.schema.yaml")
FIGURES = ["1_training_curves", "2_metrics_heatmap", "3_snapshot_convergence", "4_feature_density"]
FIGURES += ["5_importance_spectrum", "6_pareto"]


def read_config():
    """The config, checked and resolved; a mistake ends the run before any job starts, without a traceback."""
    with open(SCHEMA) as file:
        schema = yaml.safe_load(file)
    try:
        return complete_config(config, schema, str((workflow.configfiles or ["config"])[-1]))
    except AtlasError as error:
        sys.exit(f"{error}")


atlas = Atlas(read_config())
CORPUS = f"results/corpus/{atlas.config['corpus']['name']}.zarr"
PROVENANCE = "results/base_model/provenance.json"
BASE_MODEL = atlas.config["base_model"]
# Of the model that is tuned, and of the tokenizer alone of a model that is yet to be trained; the base model's own otherwise.
BASE = "results/base_model/base/provenance.json" if BASE_MODEL["source"] in TUNED else PROVENANCE
TOKENIZER = "results/base_model/tokenizer/provenance.json" if pretraining(BASE_MODEL) else BASE
MADE = folder_of(BASE_MODEL) or []  # the base model's folder where our rules make it
SITE = atlas.config["activations"]["site"]
if len(atlas.layers) > 1 and "{layer}" not in SITE:  # directions inside a module mean something else in every layer
    FIGURES.append("7_layer_flow")
FLOORS = atlas.config.get("floors", {})
STUDENTS = "results/students.parquet" if "students" in FLOORS else []
if FLOORS:
    FIGURES.append("8_loss_floor_predictions")
CONTEXT_FILES = ["contexts", "features", "documents", "raw"]  # of top_contexts
FEATURE_FILES = [*CONTEXT_FILES, "scores", "probes", "names", "evolution", "matches"]
FEATURES = expand(
    "results/features/{recipe}/layer{layer:02d}_{file}.parquet",
    recipe=atlas.recipes,
    layer=atlas.feature_layers,
    file=FEATURE_FILES,
)
EXPLORER = ["results/explorer"] if atlas.feature_layers else []
DEVICE = atlas.config["device"]  # of jobs that can use a GPU: a resource, for it is no reason to run anything again
MODEL_DEVICE = atlas.config["model_device"]  # of those that run the base model
GPUS = gpus_for(DEVICE)
RELEASES = {atlas.release_name(recipe): recipe for recipe in atlas.trained}
SAES = {
    atlas.sae_name(recipe, layer): {"recipe": recipe, "layer": layer}
    for recipe in atlas.recipes
    for layer in atlas.layers
}


def one_of(names):
    """A constraint on a wildcard; nothing fits it where there are no names."""
    return "|".join(map(re.escape, names)) or "(?!)"


def in_any_layer(recipe):
    """Names of a recipe's SAEs as a pattern. All names would make one as long as the atlas, which every file is held against."""
    return re.escape(atlas.sae_name(recipe, "{layer}")).replace(re.escape("{layer}"), r"\d+")


wildcard_constraints:
    recipe=one_of(atlas.recipes),
    layer=r"\d\d+",
    snapshot="|".join(atlas.snapshots),
    group="|".join(atlas.groups),
    part=one_of(atlas.text_groups),
    sae="|".join(map(in_any_layer, atlas.recipes)),
    release=one_of(RELEASES),


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
    """Checkpoints of all recipes that train on stores, for these (layer, snapshot) cells."""
    return [
        f"results/checkpoints/{recipe}/sae_layer{layer:02d}_{snapshot}.pt"
        for recipe in atlas.trained
        for layer, snapshot in cells
    ]


def figures(recipe):
    """Names of the figures of a recipe; SAEs that others trained have no curves."""
    return FIGURES if recipe in atlas.trained else FIGURES[1:]


def local_sae(wildcards):
    """The file or folder of a published SAE on this machine; nothing for one from the hub."""
    recipe = atlas.config["recipes"][wildcards.recipe]
    if recipe["pretrained"]["source"] == "hub":
        return []
    return Path(place(recipe, int(wildcards.layer), atlas.published(wildcards.snapshot))).absolute()


def previous_resume_point(wildcards):
    """Where the chain stands before this window; nothing for the first."""
    previous = atlas.previous(wildcards.snapshot)
    if previous is None:
        return []
    return f"results/checkpoints/{wildcards.recipe}/sae_layer{wildcards.layer}_{previous}.resume.pt"


# A store is temporary, so to make it again for one recipe is "an updated input" to the training of all others, and ancient()
# does not stop that: Snakemake heeds it only for files that exist, and then overlooks the job's own changed params. So an
# input is ancient, and left out once it is gone, where the outputs made of it are there with the identity asked for.
PATHS = workflow.modifier.path_modifier  # of this workflow: as a module of another it may have a prefix


def forced(stage):
    """Is all of this stage asked for again (--forceall, --forcerun)? Snakemake knows it once the graph is made."""
    asked = workflow.dag_settings
    return asked and (asked.forceall or stage in asked.forcerun)


def on_disk(path):
    """Where a path that rules name lies; Snakemake itself does this for inputs and outputs only."""
    return Path(str(PATHS.modify(path)))


def made(stage, record, *others, **cell):
    """Are the outputs of a job there, and is the one that holds the record of the identity asked for?"""
    there = all(on_disk(path).is_file() for path in others)
    return there and not forced(stage) and found_identity(on_disk(record)) == atlas.identity(stage, **cell)


def if_there(path):
    """An input that has been used up: still named while it is there, for a job that was cut off is run again."""
    return ancient(path) if on_disk(path).exists() else []


def store_to_train_on(wildcards):
    """The window's store, unless the chain is made up to here."""
    store = f"results/stores/layer{wildcards.layer}/{wildcards.snapshot}.zarr"
    used_up = atlas.snapshots.index(wildcards.snapshot) < chain_made(wildcards.recipe, int(wildcards.layer))
    return if_there(store) if used_up else store


@cache
def chain_made(recipe, layer):
    """Number of snapshots of the chain that need no training: made, and with a resume point to go on from."""

    def stem(snapshot):
        return f"results/checkpoints/{recipe}/sae_layer{layer:02d}_{snapshot}"

    def is_made(snapshot):
        outputs = f"{stem(snapshot)}.pt", f"results/curves/{recipe}/layer{layer:02d}_{snapshot}.parquet"
        return made("train_sae", f"{stem(snapshot)}.json", *outputs, recipe=recipe, layer=layer, snapshot=snapshot)

    count = len(list(takewhile(is_made, atlas.snapshots)))
    while count and not on_disk(f"{stem(atlas.snapshots[count - 1])}.resume.pt").is_file():
        count -= 1
    return count


def held_out_to_measure_on(wildcards):
    """The held-out data, unless the layer has been measured on them."""
    stem = f"results/metrics/{wildcards.recipe}/layer{wildcards.layer}"
    tables = (f"{stem}{table}.parquet" for table in ("", "_latents", "_blocks"))
    used_up = made("evaluate_sae", f"{stem}.json", *tables, **cell(wildcards))
    return if_there("results/held_out.zarr") if used_up else "results/held_out.zarr"


def evaluations(recipe):
    """Identities of a recipe's evaluations, in the order of its table."""
    return [atlas.identity("evaluate_sae", recipe=recipe, layer=layer) for layer in atlas.layers]


# One run at a time in a folder. Snakemake's own lock outlives a killed run; this one ends with its process.
onstart:
    try:
        hold_lock("results/.lock")
    except BlockingIOError:
        sys.exit(f"{Path('results').absolute()}: another run is at work here; wait for it or stop it first.")
    except OSError as error:
        sys.exit(
            f"{Path('results').absolute()}: cannot be written ({error.strerror}). Nothing is lost; mend it and run again."
        )


onerror:
    if "SIGKILL" in "".join(Path(file).read_text() for file in log):  # who is killed cannot say it
        print(
            "A job was killed (signal 9), as a system does that runs out of memory. Nothing is lost; run fewer jobs at once"
            " (--cores), lower batch or expansion, or take a larger machine, and run again.",
            file=sys.stderr,
        )


def text_to_read(stage, files, beside=False):
    """The activations of the text that contexts are taken from, unless they have been: they are temporary.

    files: what the stage makes of them. beside: of the layer, then of those next to it.
    """

    def paths(wildcards):
        layer = int(wildcards.layer)
        stem = f"results/features/{wildcards.recipe}/layer{wildcards.layer}"
        used_up = made_tables(stage, [f"{stem}_{file}.parquet" for file in files], **cell(wildcards))
        found = map(text_activations, [layer, *(atlas.beside(layer) if beside else [])])
        return [there for path in found if (there := if_there(path) if used_up else path)]

    return paths


def text_activations(layer):
    """Where the activations of that text lie."""
    if atlas.config["features"]["split"] == "held_out":
        return "results/held_out.zarr"
    part = next(name for name, layers in atlas.text_groups.items() if layer in layers)
    return f"results/features/activations_{part}.zarr"


def earlier_snapshots(wildcards):
    """Checkpoints of the layer before the final one."""
    earlier = atlas.snapshots_of(wildcards.recipe)[:-1]
    return expand("results/checkpoints/{recipe}/sae_layer{layer}_{snapshot}.pt", **wildcards, snapshot=earlier)


def beside_it(wildcards):
    """Final checkpoints of the layers next to it."""
    stem = f"results/checkpoints/{wildcards.recipe}/sae_layer"
    return [f"{stem}{layer:02d}_{atlas.last}.pt" for layer in atlas.beside(int(wildcards.layer))]


def made_tables(stage, tables, **cell):
    """Are these tables, outputs of one job, there with the identity asked for?"""
    from sae_atlas.tables import identities  # here, for it imports pyarrow

    identity = [atlas.identity(stage, **cell)]
    paths = list(map(on_disk, tables))
    return not forced(stage) and all(path.is_file() and identities(path) == identity for path in paths)


def explored(file):
    """Files of the layers that the explorer shows, in its order."""
    return [file.format(recipe=recipe, layer=layer) for recipe, layer in shown(atlas)]
