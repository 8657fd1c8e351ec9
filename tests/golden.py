"""Golden results of every stage: what small atlases come out as, in a few numbers, beside the versions of their stages.

`make golden` makes tests/golden.json again. It refuses while results have moved without a reason: each stage whose results
moved needs a raised version, or a stage before it with one. After a change of what is run or looked at here, delete the file.
"""

import inspect
import json
import os
import sys
import tempfile
from functools import cache
from pathlib import Path

import saved
import yaml
from digests import digest

import workflow
from sae_atlas.config.read import complete_config
from sae_atlas.stages import STAGES
from sae_atlas.stages.atlas import Atlas
from workflow import LIFE, ROOT, small

FILE = Path(__file__).with_name("golden.json")
REMAKE = "`make golden`"

# --- what is run ------------------------------------------------------------------------------------------------------

FIT = {"batch": 128, "learning_rate": 2e-3, "warmup": 2, "decay": 0, "expansion": 4}
L1 = FIT | {"sparsity_warmup": 2}
TOPK = FIT | {"k": 4, "dead_after": 500}
OTHERS = {
    "relu": L1 | {"l1": {"coefficient": 0.02}},
    "adaptive": L1 | {"architecture": "relu", "l1": {"coefficient": 0.02, "target_l0": 30}},
    "annealed": L1 | {"architecture": "relu", "l1": {"coefficient": 0.02, "anneal_to": 0.3}},
    "batch_topk": TOPK,
    "jumprelu": L1 | {"jumprelu": {"target_l0": 8, "bandwidth": 0.1}},
    "gated": L1,
    "matryoshka": TOPK,
    "matching_pursuit": TOPK,
}
ATLAS = small(
    **{
        "recipes": {"topk": TOPK | {"architecture": "topk"}},
        "activations.layers": [0, 1],
        "training": {"tokens": "2k", "snapshots": ["1k"]},
        "corpus.tokens": "16k",
        "features": {
            "layers": [1],
            "tokens": "12k",
            "contexts": 3,
            "window": 8,
            "names": {"scores": ["fuzzing", "intruder"]},
        },
        "floors": {
            "widths": [8, 16, 24],
            "students": {"seeds": 1, "steps": 10, "batch": 8, "evaluations": 10, "held_out_tokens": "1k"},
        },
    }
)
TRANSCODERS = small(
    **{
        "recipes": {"skip": TOPK | {"architecture": "batch_topk", "skip": True}},
        "activations.layers": [0, 1],
        "activations.site": "mlp_in",
        "activations.target": "mlp_out",
        "training": {"tokens": "2k", "snapshots": []},
    }
)
TASKS = small(
    **{
        "recipes": {"topk": TOPK | {"architecture": "topk"}},
        "base_model.tokenizer": "package",
        "activations.layers": [1],
        "training": {"tokens": "2k", "snapshots": []},
        "corpus.context": 128,
        "corpus.tokens": "20k",
        "evaluation.task_tokens": "16k",
        "evaluation.tasks": [
            "sparse_probing",
            "targeted_probe_perturbation",
            "spurious_correlation_removal",
            "first_letter",
        ],
    }
)
WORLD = {"d": 16, "features": 40, "l0": 3, "correlation": 0.2, "noise": 0.05}
SYNTHETIC = small(
    **{
        "base_model": {
            "name": "world",
            "source": "synthetic",
            "generator": WORLD | {"hierarchy": {"roots": 3, "children": 2, "depth": 2, "exclusive": 0.5}},
        },
        "corpus": {"name": "rows", "source": "rows", "tokens": "3k", "held_out_tokens": "1k"},
        "activations": {"shard_rows": 512, "chunk_rows": 128},
        "recipes": {"topk": TOPK | {"architecture": "topk"}},
        "training": {"tokens": "2k", "snapshots": ["1k"]},
        "evaluation": {"tokens": "1k"},
    }
)


def run(folder: Path) -> None:
    """The atlas, SAEs of the other architectures and a published one on the same activations, a base model's life,
    transcoders, tasks, an atlas of saved activations, and SAEs of synthetic rows.
    """
    atlas, life, rows = folder / "atlas", folder / "life", folder / "rows"
    others = {name: {"architecture": name} | recipe for name, recipe in OTHERS.items()}
    others |= published(atlas / "models" / "sae") | sisters(atlas / "models" / "sae")
    snakemake(atlas, ATLAS)
    checkpoints = [f"results/checkpoints/{name}/sae_layer01_1k.pt" for name in OTHERS]
    checkpoints += [f"results/checkpoints/{name}/sae_layer01_2k.pt" for name in ("published", "started", "tuned")]
    seeds = "results/figures/topk/10_seed_consistency.svg"
    snakemake(atlas, ATLAS | {"recipes": ATLAS["recipes"] | others}, *checkpoints, seeds)
    snakemake(life, ATLAS | {"base_model": LIFE}, f"models/pretrained/{LIFE['name']}/export_meta.json")
    curve, table = "results/figures/skip/9_replaced_layers.svg", "results/metrics/skip.parquet"
    snakemake(folder / "transcoders", TRANSCODERS, curve, table)
    snakemake(folder / "tasks", TASKS, "results/metrics/topk.parquet")
    saved.write(rows)
    snakemake(rows, saved.config(), "results/index.html", "results/explorer/index.html")
    snakemake(folder / "synthetic", SYNTHETIC, "results/figures/topk/11_known_truth.svg")


def published(folder: Path) -> dict:
    """A recipe that takes the atlas's own SAEs over, as SAELens publishes them."""
    source = {"source": "local", "format": "saelens", "path": str(folder), "tokens": 2000}
    source["file"] = "small-neox_resid{layer}_exp4_2k_topk"
    return {"published": {"architecture": "topk", "k": 4, "expansion": 4, "pretrained": source}}


def sisters(folder: Path) -> dict:
    """Another seed of the atlas's recipe, one that begins at its SAEs, and one that is fine-tuned."""
    topk = TOPK | {"architecture": "topk"}
    start = str(folder / "small-neox_resid{layer}_exp4_2k_topk")
    tuned = TOPK | {"architecture": "batch_topk", "finetune": {"tokens": 512}}
    return {"topk-seed1": topk | {"seed": 1}, "started": topk | {"start_from": {"path": start}}, "tuned": tuned}


def snakemake(folder: Path, config: dict, *targets: str) -> None:
    """Run the workflow in `folder`; what is temporary stays, to be looked at."""
    folder.mkdir(exist_ok=True)
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    on_cpu = os.environ | {"CUDA_VISIBLE_DEVICES": ""}  # a GPU's products are of another precision
    done = workflow.run(*workflow.command(folder, file, "--notemp", *targets)[1:], warm=True, env=on_cpu)
    if done.returncode:
        raise AssertionError(f"snakemake ended with {done.returncode}:\n{done.stdout}")


# --- what is looked at -------------------------------------------------------------------------------------------------

SAE, RELEASE, MODELS = "atlas/models/sae/*resid1*", "atlas/models/releases/*", "life/models/pretrained/*"
FEATURES = "atlas/results/features/topk/layer01"
ROWS = "rows/results"
OUTPUTS = {
    "prepare_model": {
        "": "atlas/results/base_model/provenance.json",
        "model": "atlas/results/base_model/model/*.safetensors",
        "rows": f"{ROWS}/base_model/provenance.json",
        "synthetic": "synthetic/results/base_model/truth.zarr",
    },
    "tokenize": {"": "atlas/results/corpus/*.zarr", "rows": f"{ROWS}/corpus/*.zarr"},
    "save_activations": {"": "atlas/results/activations/2k_*.zarr", "rows": f"{ROWS}/activations/1600_*.zarr"},
    "shard_activations": {"": "atlas/results/stores/layer01/2k.zarr"},
    "replace_layers": {"": "transcoders/results/metrics/skip/replaced_layers.parquet"},
    "train_sae": {name: f"atlas/results/checkpoints/{name}/sae_layer01_?k.pt" for name in ("topk", *OTHERS)}
    | {f"curve {name}": f"atlas/results/curves/{name}/layer01_?k.parquet" for name in ("topk", *OTHERS)}
    | {"transcoder": "transcoders/results/checkpoints/skip/sae_layer01_2k.pt"}
    | {"started": "atlas/results/checkpoints/started/sae_layer01_2k.pt"}
    | {"rows": f"{ROWS}/checkpoints/topk/sae_layer05_3200.pt"},
    "finetune_sae": {
        "": "atlas/results/checkpoints/tuned/sae_layer01_2k.pt",
        "curve": "atlas/results/curves/tuned/layer01_2k.parquet",
    },
    "import_start": {"": "atlas/results/starts/started/sae_layer01.pt"},
    "import_sae": {"": "atlas/results/checkpoints/published/sae_layer01_2k.pt"},
    "save_held_out": {"": "atlas/results/held_out*", "rows": f"{ROWS}/held_out*"},
    "evaluate_sae": {
        "": "atlas/results/metrics/topk/layer01.parquet",
        "transcoder": "transcoders/results/metrics/skip/layer01.parquet",
        "latents": "atlas/results/metrics/topk/layer01_latents.parquet",
        "blocks": "atlas/results/metrics/topk/layer01_blocks.parquet",
        "rows": f"{ROWS}/metrics/topk/layer05.parquet",
    },
    "save_task_text": {"": "tasks/results/tasks/text_*.zarr"},
    "save_words": {"": "tasks/results/tasks/words_*.zarr"},
    "measure_tasks": {"": "tasks/results/metrics/topk/layer01_measure_tasks.parquet"},
    "known_truth": {"": "synthetic/results/metrics/topk/layer00_known_truth.parquet"},
    "collect_metrics": {"": "atlas/results/metrics/topk.parquet"},
    "collect_recipes": {"": "atlas/results/metrics.parquet"},
    "match_layers": {"": "atlas/results/metrics/topk/flow.parquet"},
    "match_seeds": {"": "atlas/results/metrics/topk/seeds.parquet"},
    "model_card": {"card": f"{SAE}/model_card.md", "config": f"{SAE}/config.json", "saelens": f"{SAE}/*.safetensors"},
    "release": {"": f"{RELEASE}/README.md", "sae": f"{RELEASE}/sae_layer01_final.pt"},
    "index": {"": "atlas/models/sae/README.md"},
    "page": {"": "atlas/results/index.html", "cards": "atlas/results/cards/*resid1*.html"},
    "save_text": {"": "atlas/results/features/activations_*.zarr"},
    "top_contexts": {table: f"{FEATURES}_{table}.parquet" for table in ("contexts", "features", "documents", "raw")},
    "score_latents": {table: f"{FEATURES}_{table}.parquet" for table in ("scores", "probes")},
    "name_latents": {"": f"{FEATURES}_names.parquet", "rows": f"{ROWS}/features/topk/layer05_names.parquet"},
    "evolution": {"": f"{FEATURES}_evolution.parquet"},
    "contexts_of_matches": {"": f"{FEATURES}_matches.parquet"},
    "explorer": {"": "atlas/results/explorer/data/**/*.js"},
    "floors": {"": "atlas/results/floors/topk/floors.parquet"},
    "distill": {"": "atlas/results/students.parquet"},
    "fit_floors": {"": "atlas/results/floors/topk/fit.parquet"},
    "make_tokenizer": {"": "life/results/base_model/tokenizer/**/tokenizer.json"},
    "pretrain": {"": f"{MODELS}-pretrain/export_meta.json", "model": f"{MODELS}-pretrain/*.safetensors"},
    "prepare_base": {"": "life/results/base_model/base/provenance.json"},
    "tokenize_domain": {"": "life/results/corpus/domain/*.zarr"},
    "fine_tune_lora": {"": f"{MODELS}-lora/export_meta.json", "adapter": f"{MODELS}-lora/**/*.safetensors"},
    "merge_lora": {"": f"{MODELS}-merged/export_meta.json", "model": f"{MODELS}-merged/*.safetensors"},
} | {
    f"plot_{name}": {"": f"atlas/results/figures/topk/?_{name}.svg"}
    for name in (
        "training_curves",
        "metrics_heatmap",
        "snapshot_convergence",
        "feature_density",
        "importance_spectrum",
        "pareto",
        "layer_flow",
        "loss_floor_predictions",
    )
}
OUTPUTS["plot_seed_consistency"] = {"": "atlas/results/figures/topk/10_seed_consistency.svg"}
OUTPUTS["plot_known_truth"] = {"": "synthetic/results/figures/topk/11_known_truth.svg"}
OUTPUTS["plot_replaced_layers"] = {"": "transcoders/results/figures/skip/9_replaced_layers.svg"}


def results(folder: Path) -> dict[str, dict]:
    """Of every stage of OUTPUTS its version and what it made in `folder`: {stage: {version, results: {name: numbers}}}."""
    found = {}
    for stage, outputs in OUTPUTS.items():
        found[stage] = {"version": STAGES[stage].version, "results": {}}
        for label, pattern in outputs.items():
            paths = sorted(folder.glob(pattern))
            assert paths, f"stage {stage}: no output is {pattern}"
            for name, numbers in digest(paths).items():
                found[stage]["results"][f"{label} {name}".strip()] = numbers
    return found


# --- how it is compared ------------------------------------------------------------------------------------------------

# Relative to the size of the values. By another CPU's arithmetic (no AVX, generic loops) and by relative noise of 2e-7 in every
# product of the base models they move by 2e-4 at most, and nine of ten by less than 1e-5.
TOLERANCE = 1e-3
FLOOR = 1e-9  # of sketches and means whose values are all but 0


@cache
def before(stage: str) -> frozenset[str]:
    """Stages whose results those of `stage` are made from, near and far."""
    config, recipe, read = dict(ATLAS), "topk", set()
    if any(pattern.startswith("life/") for pattern in OUTPUTS[stage].values()):
        config["base_model"] = LIFE
    if OUTPUTS[stage].get("", "").startswith("transcoders/"):
        config, recipe = TRANSCODERS, "skip"
    if OUTPUTS[stage].get("", "").startswith("synthetic/"):
        config = SYNTHETIC
    if OUTPUTS[stage].get("", "").startswith("tasks/"):
        config = TASKS
    if stage == "import_sae":
        config["recipes"], recipe, read = published(ROOT), "published", {"model_card"}
    if stage in ("import_start", "finetune_sae", "match_seeds", "plot_seed_consistency"):
        config["recipes"] = ATLAS["recipes"] | sisters(ROOT)
    if stage == "import_start":
        recipe, read = "started", {"model_card"}
    if stage == "finetune_sae":
        recipe = "tuned"
    atlas = Atlas(complete_config(config, "golden.py"))
    atlas.identity = lambda of, **_: read.add(of) or of  # of an input, asked for by the stage's function
    cell = {"recipe": recipe, "layer": 1, "snapshot": atlas.last}
    arguments = inspect.signature(STAGES[stage].of).parameters
    STAGES[stage].of(atlas, **{name: value for name, value in cell.items() if name in arguments})
    read.discard(stage)
    return frozenset(read).union(*map(before, read))


def is_close(numbers: list[float], golden: list[float]) -> bool:
    """Lists as digests.summary makes them: equal counts, and numbers that differ by no more than the tolerance."""
    if len(numbers) != len(golden) or (len(golden) > 1 and numbers[0] != golden[0]):
        return False
    size = abs(golden[-2:][0])  # the root mean square, for the sketch and the mean may be near 0
    values = zip(numbers[-2:], golden[-2:], strict=True)
    return all(abs(number - other) <= TOLERANCE * size + FLOOR for number, other in values)


def differences(found: dict, golden: dict) -> list[str]:
    """Names of results that differ, are gone or are new, with both."""
    names = sorted(found.keys() | golden.keys())
    differing = [name for name in names if not is_close(found.get(name, []), golden.get(name, []))]
    return [f"{name or 'numbers'} {golden.get(name)} -> {found.get(name)}" for name in differing]


def complaints(found: dict[str, dict], golden: dict[str, dict]) -> tuple[list[str], list[str]]:
    """(results that moved while no version did, golden results of other versions than the stages'), a line per stage.

    Of stages whose results moved, those after another one that moved or has a new version need no new version themselves.
    """
    golden = {stage: golden.get(stage, {"version": None, "results": {}}) for stage in found | golden}
    differing = {stage: differences(each["results"], golden[stage]["results"]) for stage, each in found.items()}
    moved = {stage for stage in found if differing[stage]}
    raised = {stage for stage in found if found[stage]["version"] != golden[stage]["version"]}
    unexplained, outdated = [], []
    for stage in golden:
        if stage not in found:
            outdated.append(f"stage {stage}: is no more; make the golden results again with {REMAKE}")
        elif stage in raised:
            versions = f"its version is {found[stage]['version']}, its golden results are of version {golden[stage]['version']}"
            outdated.append(f"stage {stage}: {versions}: make them again with {REMAKE}")
        elif stage in moved and not before(stage) & (moved | raised):
            names = differing[stage][:3] + [f"{len(differing[stage]) - 3} more"] * (len(differing[stage]) > 3)
            following = sorted(other for other in moved if stage in before(other))
            unexplained.append(
                f"stage {stage}: its results moved ({'; '.join(names)}), its version did not: raise `version` in"
                f" {file_of(stage)} and make the golden results again with {REMAKE}"
                + (f". After it moved: {', '.join(following)}" if following else "")
            )
    return unexplained, outdated


def file_of(stage: str) -> str:
    return str(Path(inspect.getsourcefile(STAGES[stage].of)).relative_to(ROOT))


def write(found: dict[str, dict]) -> None:
    """The golden results: those that did not move stay as they are, so that they do not drift from machine to machine."""
    golden = json.loads(FILE.read_text()) if FILE.exists() else {}
    unexplained = complaints(found, golden)[0] if golden else []
    if unexplained:
        sys.exit("\n".join(unexplained))
    for stage, new in found.items():
        old = golden.get(stage, {}).get("results", {})
        new["results"] |= {
            name: old[name] for name in new["results"] if is_close(new["results"][name], old.get(name, []))
        }
    FILE.write_text(as_text(found))


def as_text(found: dict[str, dict]) -> str:
    """JSON with a line per result."""
    stages = []
    for stage, each in found.items():
        lines = ",\n".join(
            f"    {json.dumps(name)}: {json.dumps(numbers)}" for name, numbers in each["results"].items()
        )
        stages.append(f'  "{stage}": {{"version": {each["version"]}, "results": {{\n{lines}}}}}')
    return "{\n" + ",\n".join(stages) + "\n}\n"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        run(Path(temporary))
        write(results(Path(temporary)))
