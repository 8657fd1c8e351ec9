"""What a store's precision costs: `python -m benchmarks.stores [--toy]`.

The same tokens in stores of every precision; bytes per token, speed of reading, and how the SAE that was trained on each
differs from the one of the same seed trained on float16, measured on the same held-out activations (float32).
"""

import json
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.real import Real, default, options, toy
from benchmarks.report import about, write
from sae_atlas.activations.store import open_store

BATCH = 512
RECIPE = {"architecture": "topk", "k": 32, "expansion": 8, "learning_rate": 3e-3, "warmup": 20, "dead_after": 10_000}
METRICS = ("fvu", "ce_recovered", "kl_recovered", "dead")
FORMS = [(dtype, compression) for compression in ("none", "zstd") for dtype in ("float16", "int8")]


def reading(stores: dict, rounds: int) -> dict:
    """Tokens per second through the store's batches, from the page cache: [lowest, median, highest] by store."""
    rates = {name: [] for name in stores}
    for turn in range(rounds + 1):  # the first fills the page cache
        for name, store in stores.items():
            began = time.perf_counter()
            rows = sum(len(each) for each in open_store(store).batches(BATCH))
            if turn:
                rates[name].append(rows / (time.perf_counter() - began))
    return {name: [min(each), statistics.median(each), max(each)] for name, each in rates.items()}


def run(real: Real, seeds: int, rounds: int) -> list[dict]:
    stores = {form: real.store(dtype=form[0], compression=form[1]) for form in FORMS}
    rates = reading(stores, rounds)
    measured = {}
    for form, compression in FORMS:
        if compression == "zstd":
            continue  # the numbers are those of the store without
        paths = {}
        for seed in range(seeds):
            paths[str(seed)] = real.folder / f"stores_{form}_{seed}.pt"
            real.train(RECIPE | {"batch": BATCH, "seed": seed}, stores[form, compression], paths[str(seed)])
        measured[form] = real.evaluate(paths)
        print(form, [round(each["fvu"], 5) for each in measured[form].values()], flush=True)
    rows = []
    for (form, compression), path in stores.items():
        opened = open_store(path)
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        row = {"precision": form, "compression": compression, "bytes_per_token": size / opened.rows}
        row |= {"d_in": opened.d_in, "tokens_per_second": rates[form, compression], "change": {}}
        for metric in METRICS:
            row[metric] = [each[metric] for each in measured[form].values()]
            base = [each[metric] for each in measured["float16"].values()]
            row["change"][metric] = [one - other for one, other in zip(row[metric], base, strict=True)]
        rows.append(row)
    return rows


def markdown(found: dict) -> str:
    lines = [
        "# What a store's precision costs",
        "",
        f"Layer 14 of the embedded default, TopK 32, expansion 8, {found['tokens']:,} tokens once, {found['seeds']} seeds.",
        "Change: of the held-out value, against the SAE of the same seed trained on float16; mean over seeds (lowest to",
        "highest). Reading: through the store's batches, as float32, from the page cache, checksums included, with whatever "
        "else the",
        f"machine did, median of {found['rounds']} interleaved rounds; GB/s counts every value as the two bytes of float16.",
        "",
        f"{found['machine']}, {found['threads']} threads, {found['date']}.",
        "",
        "| precision | compression | bytes per token | change of FVU | change of CE recovered | reading, M tokens/s | GB/s |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        changes = [_change(row["change"][metric]) for metric in ("fvu", "ce_recovered")]
        if row["precision"] == "float16":
            changes = [
                f"FVU {statistics.mean(row['fvu']):.4f}",
                f"CE recovered {statistics.mean(row['ce_recovered']):.4f}",
            ]
        rate = row["tokens_per_second"][1]
        lines.append(
            f"| {row['precision']} | {row['compression']} | {row['bytes_per_token']:.0f} | {changes[0]} | {changes[1]} "
            f"| {rate / 1e6:.2f} | {rate * 2 * row['d_in'] / 1e9:.1f} |"
        )
    return "\n".join(lines) + "\n"


def _change(values: list[float]) -> str:
    return f"{statistics.mean(values):+.4f} ({min(values):+.4f} to {max(values):+.4f})"


def main() -> None:
    parser = options(__doc__.splitlines()[0], "stores")
    parser.add_argument("--tokens", type=int, default=120_000, help="of the text, one epoch")
    parser.add_argument("--rounds", type=int, default=7, help="of reading")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.data or Path(temporary)
        real = Real(folder, toy(folder) if chosen.toy else default(chosen.tokens))
        rows = run(real, chosen.seeds, chosen.rounds)
        found = about(chosen.rounds, 2) | {"unit": "one row per store", "tokens": real.tokens, "seeds": chosen.seeds}
        found |= {"rows": rows}
    print(markdown(found) if not chosen.toy else json.dumps(rows, indent=1))
    out = chosen.out or (None if chosen.toy else Path(__file__).parent)
    write(out, "stores", found, markdown(found))


if __name__ == "__main__":
    main()
