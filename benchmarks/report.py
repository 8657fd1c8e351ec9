"""What stands in results.json beside the rows, and RESULTS.md, made from it."""

import datetime
import os
import platform
import statistics
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sae_atlas.io.files import read_json, write_json

PACKAGES = ("sae-atlas", "sae-lens", "dictionary-learning", "eai-sparsify", "torch", "numba", "numpy")
# Measured once on such a machine, interleaved with the step as it is; by hand, so not part of the run.
NOT_KEPT = (
    "The encoder product in bf16, on a CPU without instructions for it: 376 ms where float32 takes 72 (d 576).",
    "Huge pages for weights and for what steps keep: 0 to 2% faster. With GLIBC_TUNABLES=glibc.malloc.hugetlb=1 in the "
    "environment, so for all that is allocated, 4 to 10%.",
    "Four pre-activations at a time where screened ones are computed again: no faster, memory is what they wait for.",
    "Screening below 192 dimensions or above 2.5% active latents: slower than the whole product.",
)
NAMES = ("sae_atlas", "sae_lens", "dictionary_learning", "sparsify", "encoder product")


def about(rounds: int, threads: int) -> dict:
    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{cpu()}, {os.cpu_count()} cores",
        "threads": threads,
        "rounds": rounds,
        "unit": "ms per training step, median of the rounds; low and high are the fastest and the slowest round",
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
    }


def earlier(out: Path | None, name: str, found: dict, alike: tuple[str, ...] = ("versions",)) -> list[dict]:
    """Rows of an earlier `name`.json in `out` that says under each of `alike` what `found` does."""
    if out is None or not (out / f"{name}.json").exists():
        return []
    before = read_json(out / f"{name}.json")
    return before["rows"] if all(before.get(key) == found[key] for key in alike) else []


def markdown(results: dict) -> str:
    rows = {(row["work"], row["implementation"]): row for row in results["rows"]}
    works = list(dict.fromkeys(row["work"] for row in results["rows"]))
    lines = [
        "# One training step",
        "",
        "`make bench` measures this table: the whole step (gradient, clip, Adam, norms, counts of what fired) at batch",
        "4,096 in float32. Milliseconds, median of the rounds (fastest to slowest); each round times every",
        "implementation once, in one process. All start from the same weights and batch; the learning rate is tiny, so",
        "the sparsity stays as stated. \"Encoder product\" is one `(x - b_dec) W_enc^T + b_enc`.",
        "",
        f"{results['machine']}, {results['threads']} threads, {results['rounds']} rounds, {results['date']}.",
        "",
        "| work | " + " | ".join(NAMES) + " | sae_atlas / encoder product |",
        "|---|" + "---|" * (len(NAMES) + 1),
    ]  # fmt: skip
    for work in works:
        cells = [_cell(rows[work, name]) for name in NAMES]
        ratio = rows[work, "sae_atlas"]["ms"] / rows[work, "encoder product"]["ms"]
        lines.append(f"| {work} | " + " | ".join(cells) + f" | {ratio:.2f} |")
    reasons = [row for row in results["rows"] if "reason" in row]
    lines += ["", *(f"* {row['implementation']}, {row['work']}: {row['reason']}." for row in reasons)]
    lines += [
        "",
        "## What a step is",
        "sae_lens: `SAETrainer.step` (its decoder norms are free). dictionary_learning: `TopKTrainer.update`;",
        "`StandardTrainer.update` for L1, which does not clip. sparsify: the body of `Trainer.fit` with Adam; it does",
        "not clip. sae_atlas: the training loop's own step. All with the settings of the table, everything else default.",
        "",
        "## Gradients",
        "Checked before timing, at the same weights and batch. Convention: mean over tokens of the squared error summed",
        "over dimensions, plus lambda times the mean of the sum of latents times decoder norms. sparsify's loss is that",
        "over the variance of the batch. The decoder's gradient is compared without its part along the decoder rows.",
        "AuxK is 0 in all of them: no latent is dead yet. Tokens are left out whose active latents hang on how float32",
        "rounds a sum. Largest relative difference of the four weights:",
        "",
        "| work | implementation | tokens left out | difference | agree |",
        "|---|---|---|---|---|",
        *(
            f"| {each['work']} | {each['implementation']} | {each['left_out']} | {max(each['differences'].values()):.1e} |"
            f" {'yes' if each['agree'] else 'no'} |"
            for each in results["gradients"]
        ),
        "",
        "## Tried on CPU and not kept",
        *(f"* {line}" for line in NOT_KEPT),
        "",
        "Versions: " + ", ".join(f"{name} {number}" for name, number in results["versions"].items() if number) + ".",
    ]
    return "\n".join(lines) + "\n"


def spread(values: list[float], form: str) -> str:
    """The median (lowest to highest), each written as `form` says."""
    middle, low, high = (form.format(value) for value in (statistics.median(values), min(values), max(values)))
    return f"{middle} ({low} to {high})"


def _cell(row: dict) -> str:
    return "-" if row["ms"] is None else f"{row['ms']:,.0f} ({row['low']:,.0f} to {row['high']:,.0f})"


def _version(name: str) -> str | None:
    if name == "sae-atlas":  # run from its source, not installed
        return tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"][
            "version"
        ]
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def cpu() -> str:
    """Model name of the processor."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def write(out: Path | None, name: str, found: dict, text: str | None = None) -> None:
    """name.json and, if there is a text, NAME.md in the folder `out`; None: nowhere."""
    if out:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / f"{name}.json", found)
        if text is not None:
            (out / f"{name.upper()}.md").write_text(text, encoding="utf-8")
