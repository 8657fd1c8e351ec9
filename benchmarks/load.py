"""Large atlases and long texts: `python -m benchmarks.load [--toy] [--only graph|starts|tokens|texts|wide]`.

graph: the plan (`snakemake -n`) of 24 layers x 6 snapshots x 3 recipes, and of ten times as many recipes, snapshots or
layers. starts: what a job of every stage imports before it works. tokens: seconds and peak memory of every stage at 1, 4 and
16 times the tokens, each in a process of its own. texts: `tokenize` alone at sizes at which its memory shows, again 1, 4 and 16
times the tokens. wide: the stages of `tokens` once, at d 4,096 and in one long context.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from benchmarks.load_report import markdown
from benchmarks.load_stages import ROOT, THREADS, measure, run_stage, write_config
from benchmarks.random_model import random_model
from benchmarks.report import about, write
from sae_atlas.base_models.packages import find_text
from sae_atlas.config.read import complete_config
from sae_atlas.plan.estimate import asked
from sae_atlas.plan.shape import read_shape
from sae_atlas.plan.work import count
from sae_atlas.stages import STAGES
from sae_atlas.stages.atlas import Atlas

MEASURED = ("prepare_model", "tokenize", "save_activations", "shard_activations", "train_sae", "save_held_out")
MEASURED += ("evaluate_sae", "save_text", "top_contexts", "score_latents")
HEAVY = ("torch", "transformers", "datasets", "pandas", "numba")  # whose import a start may hold
TEXT = "wikipedia-introductions"
GRIDS = ((24, 6, 3), (24, 6, 30), (24, 60, 3), (240, 6, 3))  # layers, snapshots, recipes


def sizes(d_model: int, context: int, tokens: int, expansion: int, k: int) -> dict:
    """A config of one trained layer: as many train tokens, half of them held out, a quarter read for the contexts."""
    model = {"hidden_size": d_model, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": d_model}
    model["max_position_embeddings"] = max(context, 512)
    return random_model(model, context, tokens + tokens // 4, tokens // 2) | {
        "activations": {
            "layers": [0],
            "shard_rows": 8192,
            "chunk_rows": 2048,
            "contexts_per_batch": max(1, 1024 // context),
        },
        "training": {"tokens": tokens},
        "recipes": {"topk": {"architecture": "topk", "expansion": expansion, "k": k, "batch": min(1024, tokens // 4)}},
        "evaluation": {
            "tokens": tokens // 2,
            "patched_tokens": min(4096, tokens // 4),
            "contexts_per_batch": max(1, 1024 // context),
        },
        "features": {"layers": [0], "tokens": max(tokens // 4, context), "scores": {"permutations": 19}},
    }


def graph(grids) -> list[dict]:
    """Seconds and peak memory of the plan of every grid."""
    return [_planned(*grid) for grid in grids]


def _planned(layers: int, snapshots: int, recipes: int) -> dict:
    config = yaml.safe_load((ROOT / "config/tiny-neox.yaml").read_text(encoding="utf-8"))
    config["base_model"]["sizes"]["num_hidden_layers"] = layers
    stops = [4000 * number for number in range(1, snapshots + 1)]
    config["training"] = {"tokens": stops[-1], "snapshots": stops[:-1]}
    config["corpus"]["tokens"] = stops[-1]
    recipe = config["recipes"].popitem()[1]
    config["recipes"] = {f"topk-{k}": recipe | {"k": k} for k in range(1, recipes + 1)}
    with tempfile.TemporaryDirectory() as folder:
        write_config(Path(folder) / "atlas", config)
        place = ["--directory", f"{folder}/atlas", "--configfile", f"{folder}/atlas/config.yaml"]
        command = [
            sys.executable,
            "-m",
            "snakemake",
            "--snakefile",
            str(ROOT / "Snakefile"),
            *place,
            "--cores",
            "2",
            "-n",
        ]
        found, used = _timed(command)
    total = next(int(line.split()[1]) for line in found.stdout.splitlines() if line.startswith("total "))
    return {"layers": layers, "snapshots": snapshots, "recipes": recipes, "jobs": total, **used}


def starts(which: str | None = None) -> list[dict]:
    """Seconds and memory of a new Python with what a job of every stage, or of `which`, imports before it works."""
    rows = []
    for stage in sorted(STAGES) if which is None else [which]:
        module, _ = STAGES[stage].runs.split(":")
        lines = ["import sys, sae_atlas.stages.job", f"import sae_atlas.{module}"]
        names = f"print(*[name for name in {HEAVY!r} if name in sys.modules])"
        found, used = _timed([sys.executable, "-c", "\n".join([*lines, names])])
        rows.append({"rule": stage, "imports": found.stdout.split(), **used})
    return rows


def _timed(command: list[str]) -> tuple[subprocess.CompletedProcess, dict]:
    """The finished process; wall and processor seconds, and its peak memory in MB."""
    watch = "import json, resource, subprocess, sys; "
    watch += "done = subprocess.run(sys.argv[1:], capture_output=True, encoding='utf-8'); "
    watch += "used = resource.getrusage(resource.RUSAGE_CHILDREN); "
    watch += (
        "print(json.dumps([done.returncode, done.stdout, done.stderr, used.ru_utime + used.ru_stime, used.ru_maxrss]))"
    )
    began = time.perf_counter()
    # A small process in between: a child's peak memory counts what its parent had when it was started.
    around = subprocess.run(
        [sys.executable, "-c", watch, *command], cwd=ROOT, capture_output=True, encoding="utf-8", check=True
    )
    seconds = time.perf_counter() - began
    code, stdout, stderr, processor, peak = json.loads(around.stdout)
    if code:
        raise RuntimeError(f"{' '.join(command)} ended with {code}:\n{stdout}{stderr}")
    used = {"seconds": seconds, "processor_seconds": processor, "peak_mb": peak * 1024 / 1e6}
    return subprocess.CompletedProcess(command, code, stdout, stderr), used


def stages(config: dict, way=run_stage, names=MEASURED) -> dict[str, dict]:
    """What run_stage, or another way to run it, tells of these stages."""
    with tempfile.TemporaryDirectory() as folder:
        write_config(Path(folder) / "atlas", config)
        found = {}
        for stage in names:
            found[stage] = way(Path(folder) / "atlas", stage)
            print(f"{config['training']['tokens']:,} tokens", stage, found[stage], flush=True)
    return found


def tokens(counts: tuple[int, ...], way=run_stage) -> list[dict]:
    """A row per stage: seconds and peak memory at every number of train tokens."""
    measured = {count: stages(sizes(128, 128, count, 8, 16), way) for count in counts}
    return [{"stage": stage, "at": {str(each): found[stage] for each, found in measured.items()}} for stage in MEASURED]


def texts(counts: tuple[int, ...], way=run_stage) -> list[dict]:
    """A row per number of train tokens: what `tokenize` takes for a text in a file, and what its rule asks for."""
    articles = [each["extract"] for each in json.loads(find_text(TEXT).path().read_text(encoding="utf-8")).values()]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HF_DATASETS_CACHE"] = f"{folder}/cache"  # for the stages: the user's would keep the text
        file = Path(folder) / "text.jsonl"
        with file.open("w", encoding="utf-8") as stream:
            for _ in range(1 + max(counts) // 900_000):  # tokens that all articles are at least
                stream.writelines(json.dumps({"text": article}) + "\n" for article in articles)
        for tokens in (20_000, *counts):  # the first puts the text into the cache
            config = sizes(128, 1024, tokens, 8, 16)
            config["base_model"]["tokenizer"] = "package"
            config["corpus"] = {"name": "text", "source": "local", "path": str(file), "context": 1024, "tokens": tokens}
            config["corpus"]["held_out_tokens"] = tokens // 16
            config["evaluation"] |= {"tokens": tokens // 16, "patched_tokens": tokens // 16}
            found = stages(config, way, ("prepare_model", "tokenize"))["tokenize"]
            atlas = Atlas(complete_config(config, "texts"))
            asked_mb, _ = asked(atlas, read_shape(atlas.config["base_model"], ""))["tokenize"]
            rows.append({"tokens": tokens + tokens // 16, **found, "asked_mb": asked_mb})
    return rows[1:]


def wide(d_model: int, expansion: int, context: int, way=run_stage) -> dict:
    """Every stage of a wide model, trained on one long context."""
    config = sizes(d_model, context, context - 1, expansion, 4)
    found = {"d_model": d_model, "latents": expansion * d_model, "context": context, "stages": stages(config, way)}
    atlas = Atlas(complete_config(config, "wide"))
    for work in count(atlas, read_shape(atlas.config["base_model"], "")):
        if work.memory and work.rule in found["stages"]:
            found["stages"][work.rule]["planned_mb"] = work.memory / 1e6
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="tiny sizes, seconds; writes nothing unless --out is given")
    parser.add_argument(
        "--only", choices=("graph", "starts", "tokens", "texts", "wide"), help="this part; the others stay as written"
    )
    parser.add_argument("--out", type=Path, help="folder of load.json and LOAD.md; default benchmarks/")
    chosen = parser.parse_args()
    toy = chosen.toy
    parts = {
        "graph": lambda: graph(((2, 1, 1),) if toy else GRIDS),
        "starts": lambda: starts("release" if toy else None),
        "tokens": lambda: tokens((2048, 4096), measure) if toy else tokens((32_768, 131_072, 524_288)),
        "texts": lambda: texts((20_000, 40_000), measure) if toy else texts((1_000_000, 4_000_000, 16_000_000)),
        "wide": lambda: wide(64, 8, 256, measure) if toy else wide(4096, 32, 8192),
    }
    out = chosen.out or (None if toy else Path(__file__).parent)
    file = out and out / "load.json"
    found = json.loads(file.read_text(encoding="utf-8")) if file and file.is_file() else {}
    now = about(1, THREADS) | {"unit": "seconds; MB of 10^6 bytes, the peak of the process", "later": {}}
    if chosen.only and "date" in found:
        found.setdefault("later", {})[chosen.only] = now["date"]
    else:
        found |= now
    found |= {name: part() for name, part in parts.items() if chosen.only in (None, name)}
    write(out, "load", found, markdown(found))


if __name__ == "__main__":
    main()
