"""What is around every stage's function: inputs of other jobs are refused, arguments go by name, outputs carry the record."""

import inspect
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pyarrow as pa
import pytest
import yaml
import zarr
from golden import ATLAS, SYNTHETIC, TASKS, TRANSCODERS, published, sisters
from snakemake.api import SnakemakeApi
from snakemake.settings.types import ConfigSettings, DAGSettings, OutputSettings, ResourceSettings
from test_lifecycle_workflow import merged

from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import read_json, write_json
from sae_atlas.io.provenance import code_identity, current_record, make_record, recording
from sae_atlas.io.tables import identities, write_table
from sae_atlas.plan.costs import read_costs
from sae_atlas.publish.formats.saelens_pair import FILES
from sae_atlas.stages import STAGES
from sae_atlas.stages.explorer import TABLES
from sae_atlas.stages.job import job
from workflow import LIFE, ROOT

RECORD, OTHER = (make_record("made_before", {"seed": seed}, "1", {}) for seed in (0, 1))
ASKED = {
    "stage": "a_stage",
    "settings": {},
    "inputs": {},
    "version": "1",
    "modules": ("corpus.py",),
    "runs": "stand_in:work",
    "arguments": {},
}


@pytest.fixture
def runs(monkeypatch) -> Callable:
    """A function that makes another the one that jobs of ASKED run."""

    def put(function: Callable) -> None:
        module = ModuleType("sae_atlas.stand_in")
        module.work = function
        monkeypatch.setitem(sys.modules, "sae_atlas.stand_in", module)

    return put


def given(folder: Path, inputs=None, outputs=None, wildcards=None, threads=1, device=None, expects=None, **asked):
    """In place of the `snakemake` that scripts find."""
    return SimpleNamespace(
        log=[folder / "job.log"],
        input=inputs or {},
        output=outputs or {},
        wildcards=wildcards or {},
        threads=threads,
        resources={"device": device} if device else {},
        params=SimpleNamespace(job=ASKED | asked, expects=expects or {}),
    )


def run(snakemake) -> None:
    """As workflow/scripts/run.py does."""
    with job(snakemake) as function:
        function()


def test_what_a_job_took_is_told_beside_its_log(tmp_path, runs):
    """Exactly, also of a job that is over before anybody could look at it from outside."""
    runs(lambda: sum(range(10**6)))
    snakemake = given(tmp_path)
    snakemake.log = [f"{tmp_path}/results/logs/a_stage/layer00.log"]
    wall, cpu = time.process_time(), sum(os.times()[:4])  # this process's own, and with those that it waited for
    run(snakemake)
    (cost,) = read_costs(tmp_path / "results" / "benchmarks", {"a_stage": ["layer00"]})
    assert cost.measured == 1 and cost.wall >= wall - 0.1 and cost.cpu >= cpu - 0.1
    assert cost.memory > 20  # MB, of the interpreter and its libraries alone


def test_a_job_whose_costs_cannot_be_written_has_done_its_work(tmp_path, runs):
    runs(lambda: (tmp_path / "made").touch())
    snakemake = given(tmp_path)
    snakemake.log = [f"{tmp_path}/results/logs/a_stage/layer00.log"]
    (tmp_path / "results").mkdir()
    (tmp_path / "results/benchmarks").write_text("in the way")
    run(snakemake)
    assert (tmp_path / "made").exists()


# --- the check of the inputs -------------------------------------------------------------------------------------------


def write_file(path: Path) -> Path:
    write_json(path, {"record": current_record()})
    return path


def write_arrays(path: Path) -> Path:
    zarr.create_group(path, zarr_format=3).attrs["record"] = current_record()
    return path


def write_arrays_and_name_their_file(path: Path) -> Path:
    return write_arrays(path) / "zarr.json"


def write_rows(path: Path) -> Path:
    write_table(path, pa.table({"value": [1]}))
    return path


@pytest.mark.parametrize("write", [write_file, write_arrays, write_arrays_and_name_their_file, write_rows])
def test_an_input_of_another_job_or_of_none_is_refused_before_the_function_runs(tmp_path, runs, capsys, write):
    done = []
    runs(lambda source: done.append(source))
    with recording(OTHER):
        of_another = write(tmp_path / "another")
    of_none = write(tmp_path / "none")
    for path in (of_another, of_none, tmp_path / "not there"):
        expects = {str(path): [RECORD["identity"]]}
        with pytest.raises(SystemExit) as ended:
            run(given(tmp_path, {"source": str(path)}, expects=expects))
        assert ended.value.code == 1
        line = capsys.readouterr().err
        expected = f"(expected identity {RECORD['identity']}). Delete it and rerun; it will be rebuilt."
        wrong = (
            f"made by other settings or inputs {expected}"
            if path.exists()
            else "is not there any more; run again, and it"
        )
        assert line.startswith(f"error: {path}: {wrong}") and line.count("\n") == 1
        assert "Traceback" not in (tmp_path / "job.log").read_text()
    assert done == []
    with recording(RECORD):
        right = write(tmp_path / "right")
    run(given(tmp_path, {"source": str(right)}, expects={str(right): [RECORD["identity"]]}))
    assert len(done) == 1


def test_a_table_of_several_jobs_must_carry_all_of_them(tmp_path, runs):
    runs(lambda table: None)
    table = tmp_path / "metrics.parquet"
    write_table(table, pa.table({"value": [1]}), [RECORD["identity"], OTHER["identity"]])
    run(given(tmp_path, {"table": str(table)}, expects={str(table): [OTHER["identity"], RECORD["identity"]]}))
    with pytest.raises(SystemExit):
        run(given(tmp_path, {"table": str(table)}, expects={str(table): [RECORD["identity"], "0" * 16]}))


# --- the arguments -----------------------------------------------------------------------------------------------------


def test_arguments_are_the_rules_names_the_settings_and_the_further_ones(tmp_path, runs):
    calls = []
    runs(lambda corpus, tables, page, rank, names: calls.append((corpus, tables, page, rank, names)))
    inputs = {"corpus": "results/a.zarr/zarr.json", "tables": ["b/c.parquet", "held_out.zarr/layer00/zarr.json"]}
    run(given(tmp_path, inputs, {"page": "index.html"}, settings={"rank": 2}, arguments={"names": ["x"]}))
    assert calls == [("results/a.zarr", ["b/c.parquet", "held_out.zarr/layer00"], "index.html", 2, ["x"])]


def test_an_input_of_no_files_is_left_out(tmp_path, runs):
    calls = []
    runs(lambda store, previous=None: calls.append((store, previous)))
    run(given(tmp_path, {"store": "a.zarr", "previous": []}))
    run(given(tmp_path, {"store": "a.zarr", "previous": "b.pt"}))
    assert calls == [("a.zarr", None), ("a.zarr", "b.pt")]


def test_wildcards_threads_and_device_go_to_functions_that_take_them(tmp_path, runs):
    calls = []
    about = {"wildcards": {"recipe": "topk", "layer": "07"}, "threads": 3, "device": "cuda"}
    runs(lambda recipe, layer, threads, device: calls.append((recipe, layer, threads, device)))
    run(given(tmp_path, settings={"layer": 7}, **about))  # what the settings say of a wildcard counts
    assert calls.pop() == ("topk", 7, 3, "cuda")
    runs(lambda rank: calls.append(rank))
    run(given(tmp_path, settings={"layer": 7, "rank": 2}, **about))
    assert calls.pop() == 2
    runs(lambda **settings: calls.append(settings))
    run(given(tmp_path, settings={"layer": 7, "rank": 2}, **about))
    assert calls.pop() == {"rank": 2}


def test_a_setting_that_the_function_does_not_take_is_an_error(tmp_path, runs):
    runs(lambda rank: None)
    with pytest.raises(TypeError, match="unexpected keyword argument 'rang'"):
        run(given(tmp_path, settings={"rank": 2, "rang": 2}))


# --- the record --------------------------------------------------------------------------------------------------------


def test_what_is_written_carries_the_record_which_is_an_output_too(tmp_path, runs):
    runs(lambda table: write_rows(Path(table)))
    outputs = {"table": str(tmp_path / "a.parquet"), "record": str(tmp_path / "a.json")}
    run(given(tmp_path, outputs=outputs, settings={"table": "not this"}, inputs={}))
    record = read_json(tmp_path / "a.json")["record"]
    assert record == make_record("a_stage", {"table": "not this"}, "1", {}, code_identity("corpus.py"))
    assert identities(tmp_path / "a.parquet") == [record["identity"]]


def test_a_job_for_other_programs_has_no_record(tmp_path, runs):
    seen = []
    runs(lambda file, model: seen.append((file, model, current_record())))
    asked = {"stage": None, "arguments": {"model": "base"}}
    run(given(tmp_path, outputs={"file": "a.json"}, wildcards={"layer": "07"}, **asked))
    assert seen == [("a.json", "base", None)]


@pytest.mark.parametrize("error", [None, AtlasError("a.zarr: is damaged"), ValueError("a bug")])
def test_nothing_is_recorded_after_the_jobs_end(tmp_path, runs, error):
    seen = []

    def work() -> None:
        seen.append(current_record())
        if error:
            raise error

    runs(work)
    snakemake = given(tmp_path, outputs={"record": str(tmp_path / "record.json")})
    if error is None:
        run(snakemake)
    else:
        with pytest.raises(SystemExit if isinstance(error, AtlasError) else ValueError):
            run(snakemake)
    assert [record["stage"] for record in seen] == ["a_stage"] and current_record() is None
    assert (tmp_path / "record.json").exists() == (error is None)  # what says that an output is whole


# --- every rule --------------------------------------------------------------------------------------------------------

OF_TRANSCODERS = {"replace_layers", "plot_replaced_layers"}
OF_SYNTHETIC_ROWS = {"known_truth", "plot_known_truth"}
OF_TASKS = {"save_task_text", "save_words", "measure_tasks"}
FROM_SCRIPTS = {"name_latents": {"cache": "", "price": None, "key_variable": None}} | {
    name: {"watch": None} for name in ("train_sae", "finetune_sae")
}


@contextmanager
def jobs_of(snakefile: str, config: dict, *targets: str) -> Iterator[list]:
    """All jobs of an atlas that is yet to be made, as Snakemake plans them in the current folder."""
    Path("config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    with SnakemakeApi(OutputSettings(dryrun=True)) as api:
        settings = {
            "resource_settings": ResourceSettings(cores=1),
            "config_settings": ConfigSettings(configfiles=[Path("config.yaml")]),
        }
        workflow = api.workflow(**settings, snakefile=ROOT / snakefile)
        workflow.dag(DAGSettings(targets=set(targets))).execute_workflow(executor="dryrun")
        yield [each for each in workflow._workflow.dag.jobs if "job" in dict(each.params.items())]


def bound(planned) -> inspect.BoundArguments:
    """The arguments of the function that a planned job runs."""
    asked = planned.params.job
    parts = {name: getattr(planned, name) for name in ("log", "input", "output", "wildcards", "threads", "resources")}
    with job(SimpleNamespace(**parts, params=SimpleNamespace(job=asked, expects={}))) as function:
        arguments = function.keywords | FROM_SCRIPTS.get(asked["stage"], {})
        return inspect.signature(function.func).bind(**arguments)


@pytest.mark.parametrize(
    "atlas", ["of everything", "of transcoders", "of synthetic rows", "of tasks", "of three stages"]
)
def test_names_of_every_rule_and_settings_of_its_stage_are_its_functions(tmp_path, monkeypatch, atlas):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "")  # the workflow sets it for its scripts
    if atlas == "of everything":
        for layer in (0, 1):
            (folder := tmp_path / "published" / f"small-neox_resid{layer}_exp4_2k_topk").mkdir(parents=True)
            for name in FILES:
                (folder / name).write_bytes(b"")
        recipes = ATLAS["recipes"] | published(tmp_path / "published") | sisters(tmp_path / "published")
        config = ATLAS | {"base_model": LIFE, "recipes": recipes}
        planned = jobs_of("Snakefile", config, "all", "contexts_json", "neuronpedia")
        rules = set(STAGES) - OF_TRANSCODERS - OF_SYNTHETIC_ROWS - OF_TASKS
        rules |= {"contexts_as_json", "contexts_for_neuronpedia"}
    elif atlas == "of transcoders":
        planned, rules = jobs_of("Snakefile", TRANSCODERS, "all"), OF_TRANSCODERS
    elif atlas == "of synthetic rows":
        planned, rules = jobs_of("Snakefile", SYNTHETIC, "all"), OF_SYNTHETIC_ROWS
    elif atlas == "of tasks":
        planned, rules = jobs_of("Snakefile", TASKS, "all", "sae_bench"), OF_TASKS | {"tasks_for_sae_bench"}
    else:
        planned, rules = jobs_of("workflow/three_stages.smk", merged()), {"compare_latents", "survival_page"}

    def every_job() -> set[str]:
        seen = set()
        with planned as jobs:
            for each in jobs:
                arguments = bound(each).arguments
                assert isinstance(arguments.get("layer", 0), int), each  # of settings, not the wildcard's digits
                assert set(arguments.get("tables", ())) <= set(TABLES) or each.rule.name != "explorer"
                seen.add(each.rule.name)
        return seen

    with ThreadPoolExecutor(1) as apart:  # from the event loop that a browser of another test may have left in this one
        assert rules <= apart.submit(every_job).result()
