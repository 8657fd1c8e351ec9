"""What fine-tuning on the KL gains at equal tokens: `python -m benchmarks.finetune [--toy]`.

The embedded default's first recipe, with and without `finetune`. How many of its tokens are fine-tuned is tried on one layer;
the number with the lowest KL goes on to the others. Writes FINETUNE.md and finetune.json.
"""

import itertools
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.contestants import LAYERS
from benchmarks.real import Real, default, default_recipe, options, toy
from benchmarks.report import about, write
from sae_atlas.config.read import complete_recipe
from sae_atlas.io.files import read_json
from sae_atlas.training.finetune import finetune
from sae_atlas.training.train import train

MEASURED = (14, 22, 10)  # of LAYERS; the number of tokens is chosen on the first
# Measured once, by hand, on layer 14 at 120,000 tokens; not part of the run.
NOT_KEPT = (
    "The paper's weight, with which w KL is as large as the squared error, for the last 20,000 tokens: CE recovered 0.960, FVU "
    "0.315, 482 dead latents, where the SAE that is not fine-tuned has 0.965, 0.218 and 196. The gradient of w KL with respect "
    "to the reconstruction is then 11 to 14 times as long as that of the squared error.",
    "The first 14 steps after 100,000 tokens, KL on the last four: 0.539 with the SAE as it is; 0.501 with gradients of "
    "equal length, 0.519 if Adam's averages begin anew as well; 0.557 with the paper's weight and Adam anew, 0.486 with these "
    "and a learning rate of 1e-3 in place of 3e-3. The last asks for a rate of its own, and was not followed further.",
)
METRICS = {
    "ce_increase": ("CE increase", "{:.3f}"),
    "kl": ("KL", "{:.3f}"),
    "ce_recovered": ("CE recovered", "{:.3f}"),
    "fvu": ("FVU", "{:.3f}"),
    "l0": ("L0", "{:.1f}"),
    "dead": ("dead latents", "{:.0f}"),
}


def measure(reals: dict[int, Real], recipe: dict, tuned: list[int], seeds: int) -> Iterator[list[dict]]:
    """All rows, again after every layer: one per layer, seed and number of fine-tuned tokens, the first of which is 0."""
    rows = []
    for real in reals.values():
        trained = {}
        for seed, tokens in itertools.product(range(seeds), (0, *tuned)):
            row = _trained(real, recipe | {"seed": seed}, tokens)
            trained[row.pop("checkpoint")] = row
        real.evaluate({str(path): path for path in trained})
        for found in read_json(real.folder / "metrics.json")["metrics"]:  # with intervals
            if found["metric"] in METRICS:
                trained[Path(found["snapshot"])][found["metric"]] = [found["value"], found["low"], found["high"]]
        rows += trained.values()
        yield rows
        tuned = [min((row for row in rows[: len(tuned) + 1] if row["tuned"]), key=lambda row: row["kl"])["tuned"]]


def _trained(real: Real, recipe: dict, tuned: int) -> dict:
    """A row without metrics: the CPU seconds of both parts, and the checkpoint."""
    values, begin, evaluation = complete_recipe(recipe), real.tokens - tuned, real.config["evaluation"]
    stem = real.folder / f"layer{real.layer}_{tuned}_{recipe['seed']}"
    files = {name: stem.with_suffix(f".{name}") for name in ("checkpoint", "resume", "curve")}
    window = {"recipe": values, "stop": real.tokens, "total": real.tokens}
    seconds = {
        "train": _seconds(train, real.store(), **window | {"stop": begin}, start=0, store_stop=real.tokens, **files)
    }
    if tuned:
        of_model = {"model_dtype": real.config["base_model"]["dtype"], "site": real.config["activations"]["site"]}
        seconds["finetune"] = _seconds(
            finetune, real.model, real.corpus, files.pop("resume"), **window, **of_model, **files, layer=real.layer,
            start=begin, contexts_per_batch=evaluation["contexts_per_batch"], outlier_norm=evaluation["outlier_norm"],
        )  # fmt: skip
    print("layer", real.layer, "fine-tuned", tuned, "seed", recipe["seed"], seconds, flush=True)
    row = {"tokens": real.tokens, "layer": real.layer, "seed": recipe["seed"], "tuned": tuned, "seconds": seconds}
    return row | {"checkpoint": files["checkpoint"]}


def _seconds(work: Callable, *arguments, **named) -> float:
    """Of the processor, which other work on the machine does not lengthen much."""
    began = time.process_time()
    work(*arguments, **named)
    return time.process_time() - began


def closed(plain: dict, tuned: dict, metric: str) -> float:
    """The share of a loss that fine-tuning takes away."""
    return 1 - tuned[metric][0] / plain[metric][0]


def markdown(found: dict) -> str:
    rows, tokens, first = found["rows"], found["rows"][0]["tokens"], found["rows"][0]["layer"]
    tried = {row["tuned"] for row in rows if row["layer"] == first} - {0}
    lines = [
        "# What fine-tuning on the KL gains",
        "",
        f"The embedded default's recipe `{found['recipe']}` on {tokens:,} tokens of its text, in one window. Where it is",
        "fine-tuned (`recipes.*.finetune`, arXiv 2503.17272), the last of these tokens minimise, beside the squared error, the",
        "KL of the model that reads the reconstruction from the model itself; all SAEs see as many tokens. On held-out text",
        f"({found['patched_tokens']:,} tokens for the losses): value (95 % interval over contexts), CE and KL in nats per",
        *([f"token. The number of tokens with the lowest KL on layer {first}, first seed, goes on to the other layers."]
          if len(tried) > 1 else ["token."]),
        '"Closed" is the share of the CE increase and of the KL that is gone beside the SAE of the same seed that was not',
        "fine-tuned. The paper closes 20 to 50 % of the CE increase with its last 25M tokens. Seconds are those of one",
        "processor.",
        "`python -m benchmarks.finetune` makes this page.",
        "",
        f"{found['machine']}, {found['date']}.",
        "",
        "| layer | seed | fine-tuned tokens | " + " | ".join(title for title, _ in METRICS.values())
        + " | CE closed | KL closed | s training | s fine-tuning |",
        "|---|---|---|" + "---|" * (len(METRICS) + 4),
    ]  # fmt: skip
    plain = {(row["layer"], row["seed"]): row for row in rows if not row["tuned"]}
    for row in sorted(rows, key=lambda row: (row["layer"], row["seed"], row["tuned"])):
        cells = [_cell(row[metric], form) for metric, (_, form) in METRICS.items()]
        before = plain[row["layer"], row["seed"]]
        gone = [f"{closed(before, row, metric):.0%}" if row["tuned"] else "" for metric in ("ce_increase", "kl")]
        took = [f"{row['seconds'][part]:.0f}" if part in row["seconds"] else "" for part in ("train", "finetune")]
        lines.append(
            "| " + " | ".join([f"{row['layer']} | {row['seed']} | {row['tuned']:,}", *cells, *gone, *took]) + " |"
        )
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items() if number)
    lines += ["", "## Tried and not kept", "", *(f"* {line}" for line in NOT_KEPT)]
    return "\n".join([*lines, "", f"Versions: {versions}."]) + "\n"


def _cell(values: list, form: str) -> str:
    value, low, high = values
    interval = f" ({form.format(low)} to {form.format(high)})" if low is not None else ""
    return form.format(value) + interval


def main() -> None:
    parser = options(__doc__.splitlines()[0], "finetune")
    parser.add_argument("--tokens", type=int, default=120_000, help="of the text, one epoch")
    parser.add_argument("--tuned", type=int, nargs="+", default=[20_000], help="numbers of tokens that are tried")
    parser.set_defaults(seeds=1)
    chosen = parser.parse_args()
    out = chosen.out or (None if chosen.toy else Path(__file__).parent)
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.data or Path(temporary)
        config = toy(folder, (1, 0)) if chosen.toy else default(chosen.tokens, LAYERS)
        reals = {layer: Real(folder, config, layer) for layer in ((1, 0) if chosen.toy else MEASURED)}
        name, recipe = default_recipe(chosen.toy)
        found = about(chosen.seeds, 1) | {"recipe": name, "unit": "one row per SAE: value, low, high", "rows": []}
        found["patched_tokens"] = config["evaluation"]["patched_tokens"]
        for found["rows"] in measure(reals, recipe, [512, 1024] if chosen.toy else chosen.tuned, chosen.seeds):
            write(out, "finetune", found, markdown(found))
    print(json.dumps(found["rows"], indent=1) if chosen.toy else markdown(found))


if __name__ == "__main__":
    main()
