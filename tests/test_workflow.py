"""The workflow as a user runs it: what it makes, what a change reruns, what a mistake says."""

import base64
import re
import shutil

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import SECRET

from sae_atlas.commands.summary import summarise
from sae_atlas.config.read import complete_config, read_config
from sae_atlas.io.errors import AtlasError
from sae_atlas.plan.jobs import jobs
from sae_atlas.saes.checkpoint import load_tensors
from sae_atlas.stages.atlas import Atlas
from workflow import ROOT, SMALL, kinds, planned, small, snakemake

LAYERS, RECIPES = 3, 2
CELLS = LAYERS * 3  # snapshots
FIGURES = ("1_training_curves", "2_metrics_heatmap", "3_snapshot_convergence", "4_feature_density")
FIGURES += ("5_importance_spectrum", "6_pareto", "7_layer_flow")


def test_the_chain_makes_what_it_promises(finished):
    results, models = finished.folder / "results", finished.folder / "models"
    assert len(list(results.glob("checkpoints/*/sae_layer??_?k.pt"))) == CELLS * RECIPES
    for recipe in SMALL["recipes"]:
        for figure in FIGURES:
            assert (results / "figures" / recipe / f"{figure}.png").stat().st_size > 10_000
            assert (results / "figures" / recipe / f"{figure}.svg").is_file()
        release = models / "releases" / f"small-neox-saes-x4-{recipe}"
        assert len(list(release.glob("sae_layer??_*.pt"))) == CELLS
        assert len(list(release.glob("sae_layer??_final.pt"))) == LAYERS
        assert (release / "README.md").is_file()
        assert len(list((models / "sae").glob(f"small-neox_resid?_exp4_3k_{recipe}/model_card.md"))) == LAYERS


def test_metrics_are_a_tidy_table(finished):
    table = pd.read_parquet(finished.folder / "results" / "metrics.parquet")
    assert len(table[["recipe", "layer", "snapshot"]].drop_duplicates()) == CELLS * RECIPES
    assert set(table.snapshot) == {"1k", "2k", "final"}
    assert table[table.metric == "l0"].query("recipe == 'topk'").value.between(3.5, 4).all()
    interval = table[table.metric == "fvu"]
    assert ((interval.low <= interval.value) & (interval.value <= interval.high)).all()


def test_temporary_files_are_gone_and_the_last_resume_points_stay(finished):
    results = finished.folder / "results"
    assert not list(results.glob("stores/*/*"))
    assert not list(results.glob("activations/*"))
    left = {path.name for path in results.glob("checkpoints/topk/*.resume.pt")}
    assert left == {f"sae_layer0{layer}_3k.resume.pt" for layer in range(LAYERS)}


def test_live_stores_stay_within_the_bound(finished):
    assert 0 < finished.most_stores <= SMALL["activations"]["max_live_stores"]


def test_a_run_ends_with_a_line_and_not_with_all_paths(finished):
    assert "all: the whole atlas, see results/index.html" in finished.output
    assert max(map(len, finished.output.splitlines())) < 500


def test_the_last_lines_say_where_to_look(finished):
    text = summarise(finished.folder)
    assert "18 SAEs: 2 recipes x 3 layers x 3 snapshots" in text
    for place in ("2_metrics_heatmap.png", "model_card.md", "README.md"):
        assert place in text


def test_the_last_lines_name_nothing_of_an_earlier_config(finished, tmp_path):
    """Releases and cards stay when their recipe goes, and so does the explorer."""
    folder = shutil.copytree(
        finished.folder, tmp_path / "an atlas", ignore=shutil.ignore_patterns(".snakemake", "*.pt")
    )
    said = summarise(folder)
    for where, old, new in (("releases", "x4-topk", "x4-gone"), ("sae", "3k_topk", "3k_gone")):
        for path in list((folder / "models" / where).glob(f"*{old}")):
            shutil.copytree(path, path.with_name(path.name.replace(old, new)))
    (folder / "results" / "explorer").mkdir()
    (folder / "results" / "explorer" / "index.html").write_text("of an earlier config")
    assert summarise(folder) == said
    assert said.count("  release ") == 2 and said.count("  model card ") == 2


def test_the_last_lines_of_three_atlases_are_those_of_each_and_what_compares_them(finished, tmp_path):
    for stage in ("pretrained", "lora", "merged"):
        (tmp_path / stage).symlink_to(finished.folder)
    page = tmp_path / "results" / "survival" / "topk" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text("")
    said = summarise(tmp_path)
    assert said.count("18 SAEs: 2 recipes x 3 layers x 3 snapshots") == 3
    assert said.splitlines()[-2:] == ["What survives fine-tuning:", f"  page             {page}"]
    assert str(tmp_path / "lora" / "results" / "index.html") in said


def test_secrets_of_the_environment_are_nowhere(finished):
    """Not in logs, cards, pages, records or Snakemake's own files; what is compressed or coded is looked into by its reader."""
    files = [path for path in finished.folder.rglob("*") if path.is_file()]
    assert len(files) > 300 and any(".snakemake" in path.parts for path in files)
    coded = base64.b64encode(SECRET.encode())
    for path in files:
        content = path.read_bytes()
        assert SECRET.encode() not in content and coded not in content, path
        if path.suffix == ".parquet":
            assert SECRET not in str(pq.read_metadata(path).metadata) + pd.read_parquet(path).to_csv(), path
        if path.suffix == ".pt":
            assert SECRET not in str(load_tensors(path)), path
    assert SECRET not in finished.output


def test_a_second_run_does_nothing_and_says_so(finished):
    assert "Nothing to be done" in snakemake(finished.folder, finished.folder / "config.yaml").stdout


@pytest.mark.parametrize("asked", [["--forcerun", "train_sae"], ["--forceall"]])
def test_what_is_asked_for_again_has_its_used_up_inputs_made_again(finished, asked):
    jobs = kinds(planned(finished.folder, small(), *asked))
    assert {kind: jobs[kind] for kind in ("activations", "store", "train")} == {
        "activations": 3, "store": CELLS, "train": CELLS * RECIPES,
    }  # fmt: skip


APPENDED = small(**{"training.snapshots": ["1k", "2k", "3k"], "training.tokens": "4k"})


@pytest.mark.parametrize(
    ("config", "jobs"),
    [
        pytest.param(
            small(**{"recipes.l1.l1.coefficient": 0.02}),
            {
                "activations": 3,
                "store": 9,
                "train": 9,
                "evaluate": 3,
                "table": 2,
                "flow": 1,
                "figure": 8,  # its seven, and the Pareto of its sister
                "model card": 3,
                "index": 1,
                "release": 2,  # the other one's page states the lambda of its sister
                "page": 1,
            },
            id="lambda of one recipe",
        ),
        pytest.param(
            small(**{"recipes.wide": {**SMALL["recipes"]["topk"], "expansion": 8}}),
            {
                "activations": 3,
                "store": 9,
                "train": 9,
                "evaluate": 3,
                "table": 2,
                "flow": 1,
                "figure": 9,
                "model card": 3,
                "index": 1,
                "page": 1,
            },
            id="a new recipe",
        ),
        pytest.param(
            APPENDED,
            {
                "activations": 1,
                "store": 3,
                "train": 6,
                "evaluate": 6,
                "table": 3,
                "flow": 2,
                "figure": 14,
                "model card": 6,
                "index": 1,
                "release": 2,
                "page": 1,
            },
            id="a new snapshot at the end",
        ),
        pytest.param(
            small(**{"activations.layers": [0, 1, 2, 3]}),
            {"activations": 3, "store": 3, "train": 6, "held-out": 1, "evaluate": 2, "table": 3, "figure": 14}
            | {"flow": 2, "model card": 2, "release": 2, "index": 1, "page": 1},
            id="one layer more",
        ),
        pytest.param(
            small(**{"evaluation.patched_tokens": 256}),
            {"held-out": 1, "evaluate": 6, "table": 3, "flow": 2, "figure": 12, "model card": 6, "release": 2}
            | {"index": 1, "page": 1},
            id="an evaluation size",
        ),
        pytest.param(
            small(**{"figures.colour_map": "magma"}), {"figure": 14, "release": 2, "page": 1}, id="a colour map"
        ),
        pytest.param(small(**{"activations.max_live_stores": 6}), {}, id="a bound on the disk"),
        pytest.param(small(**{"training.device": "cuda"}), {}, id="a device, also one this machine lacks"),
        pytest.param(small(**{"base_model.device_map": "auto"}), {}, id="a base model in parts"),
        pytest.param(small(**{"training.tracker": "tensorboard"}), {}, id="a tracker"),
    ],
)
def test_only_what_a_change_reaches_runs_again(finished, config, jobs):
    found = kinds(planned(finished.folder, config))
    if "wide" in config["recipes"]:  # the releases of the others name their new sister
        jobs = jobs | {"release": 3}
    assert found == jobs


@pytest.mark.parametrize("less", [{"activations.layers": [0, 1]}, {"recipes": {"topk": small()["recipes"]["topk"]}}])
def test_tables_hold_nothing_of_what_was_taken_out(finished, less):
    """Or figures would show it, and the page would look for its cards."""
    jobs = planned(finished.folder, small(**less))
    assert "table: all recipes" in jobs and not [job for job in jobs if job.startswith(("train", "evaluate"))]
    assert ("table: topk" in jobs) is ("recipes" not in less)


def test_config_errors_are_told_at_once_before_any_job(tmp_path):
    config = small(**{"training.snapshots": ["2k", "1k"], "activations.site": "resid_pots"})
    config["recipes"]["topk"]["expantion"] = 4
    done = snakemake(tmp_path, config, check=False)
    assert done.returncode != 0
    for line in (
        "training.snapshots: not ascending",
        "activations.site: no site 'resid_pots'; did you mean `resid_post`?",
        "recipes.topk.expantion: no such key; did you mean `expansion`?",
    ):
        assert line in done.stdout
    assert "Traceback" not in done.stdout
    assert not (tmp_path / "results").exists()


FLOORS = {"widths": [4, 8, 16, 32], "students": {"widths": [8, 16, 32], "steps": 10, "batch": 8, "evaluations": 10}}
FLOORS["students"]["held_out_tokens"] = 512


def test_floors_are_added_to_a_finished_atlas(finished, tmp_path):
    folder = tmp_path / "copied"
    shutil.copytree(finished.folder, folder)
    predicted = {"floors": 2, "figure": 2, "release": 2, "page": 1}
    assert kinds(planned(folder, small(floors={"widths": [4, 8]}))) == predicted
    config = small(floors=FLOORS)
    assert kinds(planned(folder, config)) == predicted | {"students": 1, "fit of the floors": 2}
    figures = [f"results/figures/{recipe}/8_loss_floor_predictions.png" for recipe in SMALL["recipes"]]
    snakemake(folder, config, *figures)
    results = folder / "results"
    for recipe in SMALL["recipes"]:
        assert (results / "figures" / recipe / "8_loss_floor_predictions.png").stat().st_size > 10_000
        floors = pd.read_parquet(results / "floors" / recipe / "floors.parquet")
        assert len(floors) == LAYERS * len(FLOORS["widths"]) * 3
        assert (floors.low <= floors.floor).all() and (floors.floor <= floors.high).all()
        assert floors.groupby(["layer", "formula"]).floor.apply(lambda each: each.is_monotonic_decreasing).all()
        metrics = pd.read_parquet(results / "metrics" / f"{recipe}.parquet").query("snapshot == 'final'")
        for ours, theirs in (("d_star", "d_star"), ("total", "importance")):
            expected = metrics[metrics.metric == theirs].set_index("layer").value
            assert floors.groupby("layer")[ours].first().to_list() == pytest.approx(expected.to_list(), rel=1e-5)
        assert len(pd.read_parquet(results / "floors" / recipe / "fit.parquet")) == 1 + LAYERS * 3
    assert len(pd.read_parquet(results / "students.parquet")) == 3 * 2 * 10
    wider = small(floors={**FLOORS, "widths": [4, 8, 16, 32, 64]})
    assert kinds(planned(folder, wider)) == predicted | {"fit of the floors": 2}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"widths": [8], "student": {}}, "floors.student: no such key; did you mean `students`?"),
        ({"widths": [8, 12], "students": {"steps": 10}}, "floors.students.widths: 12 is no multiple of 8"),
        (
            {"widths": [8], "students": {"steps": 10, "widths": [16]}},
            "floors.students.widths: no floor is predicted for 16",
        ),
        (
            {"widths": [8], "students": {"steps": 10**6}},
            "floors.students.steps: 1000000 steps of 16 contexts read up to",
        ),
        (
            {"widths": [8], "students": {"steps": 15}},
            "floors.students.evaluations: more than floors.students.steps (15)",
        ),
    ],
)
def test_mistakes_in_floors_are_told(changes, line):
    with pytest.raises(AtlasError) as error:
        complete_config(small(floors=changes), "config.yaml")
    assert line in str(error.value)


@pytest.mark.parametrize(
    ("file", "trainings"),
    [
        ("floors", 4),
        ("config", 30 * 3),
        ("tiny-neox", 24 * 6),
        ("pythia-410m", 3 * 24 * 6),
        ("bielik-topk", 3),
        ("gemma-scope", 3 * 5),
        ("restoration", 2),
        ("scale", 2),
        ("transcoders", 30),
        ("pythia-410m-transcoders", 2 * 24 * 6),
    ],
)
def test_worked_configs_train(file, trainings):
    assert counted(file)["train_sae"] == trainings


def test_published_saes_are_measured_beside_ours():
    found = counted("published-pythia-410m")
    assert (found["import_sae"], found["train_sae"], found["evaluate_sae"]) == (3 * 144, 3 * 144, 6 * 24)
    assert (found["model_card"], found["release"]) == (6 * 24, 3)
    figures = sum(number for rule, number in found.items() if rule.startswith("plot_"))
    assert figures == 7 * 3 + 6 * 3  # no curves of what is not trained


def counted(file: str) -> dict[str, int]:
    """Number of jobs of every rule; tests/test_plan_work.py compares it with a dry run."""
    config = read_config(ROOT / "config" / f"{file}.yaml")
    return {rule: len(names) for rule, names in jobs(Atlas(config)).items()}


def test_the_environments_hold_the_same_pins():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = set(project["dependencies"])
    locks = [(ROOT / f"requirements{name}.lock").read_text() for name in ("", "-torch")]
    lock = {line.removesuffix(" \\") for text in locks for line in text.splitlines()}
    conda = yaml.safe_load((ROOT / "envs" / "atlas.yaml").read_text())["dependencies"][-1]["pip"]
    assert pins <= set(conda)
    everything = pins | {pin for extra in project["optional-dependencies"].values() for pin in extra}
    assert {_normal(pin) for pin in everything} <= {_normal(line) for line in lock}


def _normal(pin: str) -> str:
    return pin.lower().replace("_", "-") if ";" not in pin else pin


def test_every_pin_but_torch_has_hashes():
    for name in ("", "-embedded"):
        text = (ROOT / f"requirements{name}.lock").read_text().replace("\\\n", " ")
        pins = [line for line in text.splitlines() if line and not line.startswith("#")]
        assert pins and all(re.search(r"==\S+ .*--hash=sha256:[0-9a-f]{64}", pin) for pin in pins)
