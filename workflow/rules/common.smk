# What all rules share: the checked config, the grid of the atlas, and small input functions.
import os
import re
import sys
from pathlib import Path

# Where jobs are sent to there may be no internet: nothing waits for it there. What fetches runs where the run was started.
if workflow.remote_exec:
    os.environ.update(HF_HUB_OFFLINE="1")

from sae_atlas.base_models.adapters import META
from sae_atlas.config.own_models import TUNED, adapter_name, base_of, folder_of, kind_of, pretraining
from sae_atlas.config.published import path_in_release
from sae_atlas.config.start_files import start_file
from sae_atlas.io.devices import gpus_for, let_threads_sleep
from sae_atlas.io.errors import AtlasError
from sae_atlas.plan.estimate import memory_mb, minutes, threads
from sae_atlas.plan.jobs import jobs
from sae_atlas.plan.shape import UNKNOWN, read_shape
from sae_atlas.stages.base_model import MAKERS
from sae_atlas.stages.corpus import row_texts_of
from sae_atlas.stages.evaluation import further_stages
from sae_atlas.stages.explorer import TABLES as EXPLORED
from sae_atlas.stages.explorer import explored_cells
from sae_atlas.stages.figures import figures
from sae_atlas.stages.sisters import other_seeds
from sae_atlas.stages.tasks import on_documents, on_words, tasks_of
from sae_atlas.plan.work import Jobs
from sae_atlas.synthetic.places import rows_path

let_threads_sleep()


def made_model(section):
    """What stands for the folder of a model that our rules make; nothing for others."""
    folder = folder_of(section)
    return f"{folder}/{META}" if folder else []


def made_by(section):
    """The stage that makes it, whose rule may be another module's."""
    return MAKERS.get(section["source"])


try:
    atlas = read_atlas(config, PATHS.modify)
except AtlasError as error:  # before any job, without a traceback
    sys.exit(f"{error}")

# A folder is known by a file in it: Snakemake would remove a folder before the job that makes it again has begun.
CORPUS = f"results/corpus/{atlas.config['corpus']['name']}.zarr/zarr.json"
CHECKPOINT = "results/checkpoints/{recipe}/sae_layer{layer:02d}_{snapshot}.pt"
START = "results/starts/{recipe}/sae_layer{layer:02d}.pt"
LATENTS = "results/metrics/{recipe}/layer{layer:02d}_latents.parquet"
FURTHER = [f"results/metrics/{{recipe}}/layer{{layer:02d}}_{stage}.parquet" for stage in further_stages(atlas)]
PROVENANCE = "results/base_model/provenance.json"
BASE_MODEL = atlas.config["base_model"]
# Of the model that is tuned, and of the tokenizer alone of a model that is yet to be trained; the base model's own otherwise.
BASE = "results/base_model/base/provenance.json" if BASE_MODEL["source"] in TUNED else PROVENANCE
TOKENIZER = "results/base_model/tokenizer/provenance.json" if pretraining(BASE_MODEL) else BASE
MADE = made_model(BASE_MODEL)
ROW_TEXTS = row_texts_of(atlas.config["corpus"])  # of saved activations what their rows are called
# For the functions that read rows: where the user's own activations are, or those that prepare_model draws.
SAVED = {"path": BASE_MODEL.get("path", rows_path(PATHS.modify("results/base_model")))} if atlas.of_rows else {}
FLOORS = atlas.config.get("floors", {})
STUDENTS = "results/students.parquet" if "students" in FLOORS else []
FEATURE_TABLES = ["contexts", "features", "documents", "raw", "scores", "probes", "names", "evolution", "matches"]
FEATURES = expand(
    "results/features/{recipe}/layer{layer:02d}_{table}.parquet",
    recipe=atlas.recipes,
    layer=atlas.feature_layers,
    table=FEATURE_TABLES,
)
EXPLORER = ["results/explorer/index.html"] if atlas.feature_layers else []
DEVICE = atlas.config["device"]  # of jobs that can use a GPU: a resource, for it is no reason to run anything again
MODEL_DEVICE = atlas.config["model_device"]  # of those that run the base model
GPUS = gpus_for(DEVICE)
RESUME_POINTS = [
    f"results/checkpoints/{recipe}/sae_layer{layer:02d}_{snapshot}.resume.pt"
    for recipe in atlas.trained
    for layer in atlas.layers
    if (snapshot := atlas.kept_resume_point(recipe)) is not None
]
RELEASES = {atlas.release_name(recipe): recipe for recipe in atlas.trained}
SAES = {
    atlas.sae_name(recipe, layer): {"recipe": recipe, "layer": layer}
    for recipe in atlas.recipes
    for layer in atlas.layers
}
PICTURES = [f"results/figures/{recipe}/{figure}.png" for recipe in atlas.recipes for figure in figures(atlas, recipe)]
CARDS = expand("models/sae/{sae}/config.json", sae=SAES)  # of a card's folder, what says who made it


def one_of(names):
    """A constraint on a wildcard; nothing fits it where there are no names."""
    return "|".join(map(re.escape, names)) or "(?!)"


def but_final(recipes, tuned):
    """The recipes as a pattern that does not fit the files of the final snapshots of `tuned`."""
    return f"(?!(?:{one_of(tuned)})/[^/]*_{atlas.last}[.])(?:{one_of(recipes)})"


def in_any_layer(recipe):
    """Names of a recipe's SAEs as a pattern. All names would make one as long as the atlas, which every file is held against."""
    return re.escape(atlas.sae_name(recipe, "{layer}")).replace(re.escape("{layer}"), r"\d+")


wildcard_constraints:
    recipe=one_of(atlas.recipes),
    layer=r"\d\d+",
    snapshot="|".join(atlas.tokens_at),
    group="|".join(atlas.groups),
    part=one_of(atlas.text_groups),
    sae="|".join(map(in_any_layer, atlas.recipes)),
    release=one_of(RELEASES),


def atlas_arguments(wildcards):
    """The cell a job stands for, as arguments of Atlas: layers are numbers there."""
    values = dict(wildcards.items())
    if "sae" in values:
        return SAES[values["sae"]]
    if "release" in values:
        return {"recipe": RELEASES[values["release"]]}
    return {name: int(value) if name == "layer" else value for name, value in values.items()}


def growing(amount):
    """A resource that grows with every attempt at the job."""
    return lambda wildcards, attempt: amount * attempt


def sizes_at_hand():
    """Of the base model, from its own config as far as it is on this machine; else those of a middling one."""
    try:
        return read_shape(BASE_MODEL, PATHS.modify("results/base_model/model"), at_hand=True)
    except AtlasError:
        return UNKNOWN


JOBS = Jobs(atlas, sizes_at_hand())


def asked(rule):
    """Memory and time of a job by the sizes of model and SAE, as `make plan` prints them; more with every attempt."""

    def job(wildcards):
        return JOBS.work(rule, atlas_arguments(wildcards))

    return {
        "mem_mb": lambda wildcards, attempt: attempt * memory_mb(job(wildcards)),
        "runtime": lambda wildcards, attempt: attempt * minutes(job(wildcards), GPUS > 0),
    }


def threads_of(rule):
    """Threads of a job by what it has to share out among them."""
    return lambda wildcards: threads(JOBS.work(rule, atlas_arguments(wildcards)))


def trained(cells):
    """Checkpoints of all recipes that train on stores, for these (layer, snapshot) cells."""
    return [
        CHECKPOINT.format(recipe=recipe, layer=layer, snapshot=snapshot)
        for recipe in atlas.trained
        for layer, snapshot in cells
    ]


def local_sae(wildcards):
    """The file or folder of a published SAE on this machine, whose time does not count; nothing for one from the hub."""
    recipe = atlas.config["recipes"][wildcards.recipe]
    if recipe["pretrained"]["source"] == "hub":
        return []
    where = path_in_release(recipe, int(wildcards.layer), atlas.published(wildcards.snapshot))
    return ancient(str(Path(where).absolute()))


def previous_resume_point(wildcards):
    """Where the chain stands before this window; nothing for the first."""
    previous = atlas.previous(wildcards.snapshot, wildcards.recipe)
    if previous is None:
        return []
    return f"results/checkpoints/{wildcards.recipe}/sae_layer{wildcards.layer}_{previous}.resume.pt"


def store_of_window(wildcards):
    """The store of the window that a job trains on."""
    return f"results/stores/layer{wildcards.layer}/{atlas.store_of(wildcards.snapshot)}.zarr"


def start_checkpoint(wildcards):
    """The checkpoint at which a chain begins; nothing for random directions, and behind its first window."""
    recipe, layer, snapshot = (atlas_arguments(wildcards)[name] for name in ("recipe", "layer", "snapshot"))
    start = atlas.start_of(recipe, layer)
    if start is None or atlas.previous(snapshot, recipe) is not None:
        return []
    return (START if start[0] == "import_start" else CHECKPOINT).format(**start[1])


def local_start(wildcards):
    """The file or folder of the user's own that is read for it, whose time does not count."""
    path = atlas.config["recipes"][wildcards.recipe]["start_from"]["path"]
    return ancient(str(start_file(path, int(wildcards.layer)).absolute()))


onerror:
    if "SIGKILL" in "".join(
        Path(file).read_text(encoding="utf-8", errors="replace") for file in log
    ):  # who is killed cannot say it
        print(
            "A job was killed (signal 9), as a system does that runs out of memory. Nothing is lost; run fewer jobs at once"
            " (--cores), lower batch or expansion, or take a larger machine, and run again.",
            file=sys.stderr,
        )


def held_out(layer):
    """What stands for the folder of a layer's held-out data."""
    return f"results/held_out.zarr/layer{int(layer):02d}/zarr.json"


def text_activations(layer):
    """Where a layer's activations of the text lie that contexts are taken from."""
    if atlas.config["features"]["split"] == "held_out":
        return held_out(layer)
    part = next(name for name, layers in atlas.text_groups.items() if layer in layers)
    return f"results/features/activations_{part}.zarr"


def text_of_neighbours(wildcards):
    """The same of the layer itself, then of those next to it."""
    layer = int(wildcards.layer)
    return list(map(text_activations, [layer, *atlas.neighbour_layers(layer)]))


def text_trained(wildcards):
    """Final checkpoints of the layers that a pass over the text reads."""
    return trained([(layer, atlas.last) for layer in atlas.text_groups[wildcards.part]])


def of_all_layers(path, snapshots=lambda recipe: [atlas.last]):
    """A file of every layer of a job's recipe, and of every one of its snapshots that the function names."""

    def paths(wildcards):
        recipe = atlas_arguments(wildcards)["recipe"]
        return expand(path, recipe=recipe, layer=atlas.layers, snapshot=snapshots(recipe))

    return paths


def metric_tables(wildcards):
    """Tables of metrics of all layers of a job's recipe: of each layer that of evaluate_sae, then those of other stages."""
    tables = ["results/metrics/{recipe}/layer{layer:02d}.parquet", *FURTHER]
    return [table.format(recipe=wildcards.recipe, layer=layer) for layer in atlas.layers for table in tables]


def checkpoints_of_layer(wildcards):
    """All snapshots of a recipe's layer."""
    snapshots = atlas.snapshots_of(wildcards.recipe)
    return expand("results/checkpoints/{recipe}/sae_layer{layer}_{snapshot}.pt", **wildcards, snapshot=snapshots)


def published_snapshots(wildcards):
    """What they are called in tables."""
    return list(map(atlas.published, atlas.snapshots_of(wildcards.recipe)))


def finals_of_other_seeds(wildcards):
    """Final checkpoints of all layers of the recipes that differ by their seed alone."""
    return [
        CHECKPOINT.format(recipe=name, layer=layer, snapshot=atlas.last)
        for name in other_seeds(atlas, wildcards.recipe)
        for layer in atlas.layers
    ]


def earlier_snapshots(wildcards):
    """Checkpoints of the layer before the final one."""
    earlier = atlas.snapshots_of(wildcards.recipe)[:-1]
    return expand("results/checkpoints/{recipe}/sae_layer{layer}_{snapshot}.pt", **wildcards, snapshot=earlier)


def beside_it(wildcards):
    """Final checkpoints of the layers next to it."""
    return expand(
        CHECKPOINT, recipe=wildcards.recipe, layer=atlas.neighbour_layers(int(wildcards.layer)), snapshot=atlas.last
    )


def explored(file):
    """Files of the layers that the explorer shows, in its order."""
    return [file.format(recipe=recipe, layer=layer) for recipe, layer in explored_cells(atlas)]


def group_trained(wildcards):
    """Final checkpoints of the layers of a group, whose stores need the disk before."""
    return trained([(layer, atlas.last) for layer in atlas.groups[wildcards.group]])


def of_group(path, asked):
    """A file of the group that a job's layer is in; nothing where it is not asked for."""
    return lambda wildcards: path.format(group=atlas.group_of(int(wildcards.layer))) if asked else []
