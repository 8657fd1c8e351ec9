"""Finished work survives every way of calling Snakemake: what is planned is what is not there as it is asked for."""

import os
import random
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import yaml
from slurm import wait_for
from test_interruption import checkpoints
from test_module import OUTER

from sae_atlas.io.files import read_json
from workflow import ROOT, SMALL, kinds, planned_in, run, small

ONE = small(**{"activations.layers": [1], "activations.max_live_stores": 2, "training.tokens": "2k"})
ONE["training"]["snapshots"] = ["1k"]
del ONE["recipes"]["l1"]
NO_PROFILE = ("--workflow-profile", "none")
SLURM = str(ROOT / "workflow" / "profiles" / "slurm")
TRIGGERS = ("mtime", "params", "input", "code", "software-env")


class Workflow:
    """A copy of the workflow, which tests may edit, and one way to call it in a folder that is not its own."""

    def __init__(self, place: Path):
        self.place = place
        for part in ("Snakefile", "workflow", "config", "envs", "sae_atlas"):
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy2
            copy(ROOT / part, place / part)
        (place / "profiles").symlink_to("workflow/profiles")

    def command(self, folder: Path, config: dict, *arguments: str) -> list[str]:
        folder.mkdir(exist_ok=True)
        file = self.place / "asked.yaml"
        file.write_text(yaml.safe_dump(config, sort_keys=False))
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(self.place / "Snakefile"), "--cores", "2"]
        return [*command, "--configfile", str(file), "--directory", str(folder), *arguments]

    def run(self, folder: Path, config: dict, *arguments: str, check: bool = True) -> str:
        done = run(*self.command(folder, config, *arguments)[1:], cwd=folder, warm=True)
        assert not check or done.returncode == 0, done.stdout
        return done.stdout

    def planned(self, folder: Path, config: dict, *arguments: str) -> dict[str, int]:
        """Jobs of each kind that would run."""
        return kinds(planned_in(self.run(folder, config, "--dry-run", *arguments)))


@pytest.fixture(scope="module")
def workflow(tmp_path_factory) -> Workflow:
    return Workflow(tmp_path_factory.mktemp("workflow"))


@pytest.fixture(scope="module")
def atlas(finished) -> Path:
    """Three layers, two recipes, three snapshots, finished: looked at, never changed."""
    return finished.folder


@pytest.fixture(scope="module")
def one(workflow, tmp_path_factory) -> Path:
    """One layer, one recipe, two snapshots, finished."""
    folder = tmp_path_factory.mktemp("one") / "atlas"
    workflow.run(folder, ONE)
    return folder


def copied(atlas: Path, folder: Path, memory: bool = True) -> Path:
    """A copy of a finished atlas whose files have new times in a random order; without Snakemake's memory if so asked."""
    shutil.copytree(atlas, folder, ignore=None if memory else shutil.ignore_patterns(".snakemake"))
    shuffled = random.Random(0)
    for path in folder.rglob("*"):
        if ".snakemake" not in path.parts:
            seconds = shuffled.uniform(1.7e9, 1.75e9)
            os.utime(path, (seconds, seconds), follow_symlinks=False)
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        NO_PROFILE,
        ("--profile", SLURM),
        ("--workflow-profile", SLURM),
        *(pytest.param((*NO_PROFILE, "--rerun-triggers", trigger), marks=pytest.mark.long) for trigger in TRIGGERS),
        (*NO_PROFILE, "--rerun-triggers", *TRIGGERS),
    ],
)
def test_nothing_is_planned_however_snakemake_is_called(workflow, atlas, arguments):
    assert workflow.planned(atlas, small(), *arguments) == {}


def test_a_folder_copied_without_times_and_memory_is_as_finished(workflow, atlas, tmp_path):
    assert workflow.planned(copied(atlas, tmp_path / "copy"), small(), *NO_PROFILE) == {}
    assert workflow.planned(copied(atlas, tmp_path / "bare", memory=False), small(), *NO_PROFILE) == {}


def test_an_updated_workflow_makes_nothing_again_and_says_what_differs(atlas, tmp_path):
    """Touched scripts and environments, another error message, a new architecture: none changes a number."""
    updated = Workflow(tmp_path)
    for path in [*(tmp_path / "workflow" / "scripts").glob("*.py"), *(tmp_path / "envs").glob("*")]:
        path.write_text(path.read_text() + "# touched\n")
    message = tmp_path / "sae_atlas" / "training" / "train.py"
    message.write_text(message.read_text().replace("Lower learning_rate or", "Take a lower learning_rate, or"))
    (tmp_path / "sae_atlas" / "saes" / "another.py").write_text('"""Another architecture."""\n\nSPARSITY = "another"\n')
    for way in ((), NO_PROFILE):
        told = updated.run(atlas, small(), "--dry-run", *way)
        assert "Job " not in told
        assert (
            told.count("train_sae: made by other code") + told.count("train_sae, evaluate_sae: made by other code") == 1
        )
        assert "--forcerun train_sae" in told


CHANGES = {
    "lambda": (
        {"recipes.l1.l1.coefficient": 0.02},
        {"activations": 3, "store": 9, "train": 9, "evaluate": 3, "table": 2, "flow": 1, "figure": 8, "model card": 3}
        | {"index": 1, "release": 2, "page": 1},
    ),
    "a recipe": (
        {"recipes.wide": {**SMALL["recipes"]["topk"], "expansion": 8}},
        {"activations": 3, "store": 9, "train": 9, "evaluate": 3, "table": 2, "flow": 1, "figure": 9, "model card": 3}
        | {"index": 1, "release": 3, "page": 1},
    ),
    "a layer": (
        {"activations.layers": [0, 1, 2, 3]},
        {"activations": 3, "store": 3, "train": 6, "held-out": 1, "evaluate": 2, "table": 3, "figure": 14, "flow": 2}
        | {"model card": 2, "release": 2, "index": 1, "page": 1},
    ),
    "a longer run": (
        {"training.snapshots": ["1k", "2k", "3k"], "training.tokens": "4k"},
        {"activations": 1, "store": 3, "train": 6, "evaluate": 6, "table": 3, "flow": 2, "figure": 14, "model card": 6}
        | {"index": 1, "release": 2, "page": 1},
    ),
    "how figures look": ({"figures.colour_map": "magma"}, {"figure": 14, "release": 2, "page": 1}),
}


@pytest.fixture(scope="module")
def bare(atlas, tmp_path_factory) -> Path:
    return copied(atlas, tmp_path_factory.mktemp("bare") / "copy", memory=False)


# With our profile: tests/test_workflow.py. The rest of the pairs is for those who have the time.
WAYS = ("no profile", "neither times nor memory")
FEW = {("a recipe", WAYS[0]), ("a longer run", WAYS[0]), ("a layer", WAYS[1]), ("how figures look", WAYS[1])}
PAIRS = [
    pytest.param(changed, way, marks=[] if (changed, way) in FEW else pytest.mark.long)
    for way in WAYS
    for changed in CHANGES
]


@pytest.mark.parametrize(("changed", "way"), PAIRS)
def test_a_change_runs_exactly_its_jobs(workflow, atlas, bare, changed, way):
    changes, jobs = CHANGES[changed]
    folder = atlas if way == "no profile" else bare
    assert workflow.planned(folder, small(**changes), *NO_PROFILE) == jobs


def test_one_layer_more_leaves_the_others_held_out_passes_alone(workflow, one, tmp_path):
    folder = copied(one, tmp_path / "copy")
    before, trained = held_out(folder), checkpoints(folder / "results")
    config = {**ONE, "activations": {**ONE["activations"], "layers": [0, 1]}}
    workflow.run(folder, config, *NO_PROFILE, "results/metrics/topk/layer00.json")
    after = held_out(folder)
    assert {name: after[name] for name in before} == before
    assert {name.split("/")[0] for name in after.keys() - before.keys()} == {"layer00"}
    assert {name: content for name, content in checkpoints(folder / "results").items() if name in trained} == trained
    alone = tmp_path / "alone"
    shutil.copytree(one, alone)
    shutil.rmtree(alone / "results" / "held_out.zarr")
    workflow.run(alone, config, "results/held_out.zarr/layer00/zarr.json")
    assert held_out(alone) == after


def held_out(folder: Path) -> dict[str, tuple]:
    root = folder / "results" / "held_out.zarr"
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("asked", [("--forceall",), ("--forcerun", "train_sae"), "-f"])
def test_what_is_asked_for_again_ends_with_the_same_bits(workflow, one, tmp_path, asked):
    folder = copied(one, tmp_path / "copy")
    before = checkpoints(folder / "results")
    if asked == "-f":
        asked, targets = (asked,), ["results/checkpoints/topk/sae_layer01_2k.pt"]
    else:  # without what is drawn of it; with the last resume point, or it would go as temporary ones do
        targets = ["results/metrics/topk/layer01.json", "results/checkpoints/topk/sae_layer01_2k.resume.pt"]
    told = workflow.run(folder, ONE, *asked, *NO_PROFILE, "--", *targets)
    assert "train: topk, layer 01, to 2k tokens" in told
    assert checkpoints(folder / "results") == before
    measured_again = "evaluate: topk, layer 01" in told
    assert measured_again == (asked[0] != "-f")  # what a forced job changes reaches what depends on it
    assert workflow.planned(folder, ONE, *NO_PROFILE) == {}


def test_a_failing_job_leaves_what_was_there(workflow, one, tmp_path):
    """A penalty that is not finite ends the training; the SAE of the config before is there again."""
    folder = copied(one, tmp_path / "copy")
    before = outputs(folder)
    config = {**ONE, "recipes": {"topk": {**ONE["recipes"]["topk"], "learning_rate": 1e30}}}
    told = workflow.run(folder, config, *NO_PROFILE, check=False)
    assert "gradient norm" in told or "not finite" in told
    assert outputs(folder) == before
    assert workflow.planned(folder, ONE, *NO_PROFILE) == {}


@pytest.mark.parametrize("whole", [False, True], ids=["the job", "the whole run"])
def test_what_is_killed_leaves_what_was_there(workflow, one, tmp_path, whole):
    folder = copied(one, tmp_path / "copy")
    before = outputs(folder)
    command = workflow.command(folder, ONE, "--forcerun", "train_sae", *NO_PROFILE)
    with (tmp_path / "told").open("w") as told:
        run = subprocess.Popen(command, stdout=told, stderr=subprocess.STDOUT, cwd=folder, start_new_session=True)
    job = wait_for(lambda: training(run), "a training", 120)
    if whole:
        os.killpg(run.pid, signal.SIGKILL)
    else:
        job.kill()
    assert run.wait(120) != 0
    assert outputs(folder) == before
    assert workflow.planned(folder, ONE, *NO_PROFILE) == {}
    unlocked = (*NO_PROFILE, "--nolock", "--rerun-incomplete")  # as our profile has it
    drawn = "results/figures/topk/6_pareto.png"
    workflow.run(folder, ONE, drawn, "--forcerun", "plot_pareto", *unlocked)  # what was put aside is in nobody's way
    assert outputs(folder) == before


def training(run: subprocess.Popen) -> psutil.Process | None:
    for process in psutil.Process(run.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it ended meanwhile
            if any(".train_sae.py" in word for word in process.cmdline()):
                return process
    return None


def outputs(folder: Path) -> dict[str, bytes]:
    """All that is kept, without logs and what tells how long a job took."""
    parts = ("results/checkpoints", "results/curves", "results/metrics", "results/figures", "models/sae")
    files = [path for part in parts for path in (folder / part).rglob("[!.]*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_as_a_module_of_another_workflow_elsewhere(workflow, tmp_path):
    """No profile of ours applies there. Twice, then with a recipe added, then forced by the names that its rules have there."""
    (tmp_path / "Snakefile").write_text(OUTER.format(place=workflow.place))

    def jobs(config, *arguments, **options):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({"sae": config}))
        command = ["-m", "snakemake", "--cores", "2", "--configfile", "config.yaml", *arguments]
        done = run(*command, cwd=tmp_path, **options)
        assert done.returncode == 0, done.stdout
        return kinds(planned_in(done.stdout))

    jobs(ONE, warm=True)  # by processes of their own: tests/test_module.py
    assert read_json(tmp_path / "saes/results/base_model/provenance.json")["record"]["version"] == "1"
    assert jobs(ONE, "--dry-run") == {}
    more = {**ONE, "recipes": {**ONE["recipes"], "more": {**ONE["recipes"]["topk"], "k": 3}}}
    planned = jobs(more, "--dry-run")
    assert (planned["train"], planned["evaluate"], planned["model card"]) == (2, 1, 1)
    again = jobs(ONE, "--dry-run", "--forcerun", "atlas_train_sae")
    assert (again["train"], again["evaluate"], again["store"]) == (2, 1, 2)
