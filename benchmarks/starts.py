"""Whether a layer learns faster from the SAE of the layer before it: `python -m benchmarks.starts [--toy]`.

The workflow itself trains the default's recipe on pairs of neighbouring layers, once from random directions and once with
`start_from: {layer: previous}`, and measures every snapshot on held-out text. Of a pair the second layer is reported. Writes
STARTS.md and starts.json; it takes a quarter of an hour.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import yaml

from benchmarks.report import about, write
from sae_atlas.io.tables import read_table
from sae_atlas.plan.machine import available_cores

ROOT = Path(__file__).parent.parent
PAIRS = ((14, 15), (22, 23), (6, 7))
SNAPSHOTS, TOKENS = ("15k", "30k", "60k"), "120k"
RANDOM, PREVIOUS = "random", "previous"
METRICS = ("ce_recovered", "fvu", "dead")


def config_of(pair: tuple[int, int], toy: bool) -> dict:
    """The default's model, text and recipe on the layers of a pair."""
    if toy:
        config = yaml.safe_load((ROOT / "config" / "tiny-neox.yaml").read_text(encoding="utf-8"))
        config["training"] = {"tokens": "8k", "snapshots": ["4k"]}
        pair = (2, 3)
    else:
        config = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
        config["training"] |= {"tokens": TOKENS, "snapshots": list(SNAPSHOTS)}
    config["activations"]["layers"] = list(pair)
    recipe = next(iter(config["recipes"].values()))
    config["recipes"] = {
        RANDOM: recipe,
        PREVIOUS: recipe | {"start_from": {"recipe": PREVIOUS, "layer": "previous"}},
    }
    return {name: section for name, section in config.items() if name not in ("features", "floors")}


def run(config: dict, cores: int) -> pd.DataFrame:
    """The table of metrics of the recipes of a config."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "starts.yaml")
        file.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", folder]
        command += ["--configfile", file, "--cores", str(cores), "results/metrics.parquet"]
        if subprocess.run(command).returncode:
            raise SystemExit("the run failed; nothing is written")
        return read_table(Path(folder, "results/metrics.parquet"))


def rows_of(table: pd.DataFrame) -> list[dict]:
    """A row per recipe and snapshot of the second layer: tokens, and of each metric its value and the ends of its interval."""
    table = table[(table["layer"] == table["layer"].max()) & table["metric"].isin(METRICS)]
    rows = []
    for (recipe, tokens), each in table.groupby(["recipe", "tokens"], sort=False):
        values = each.set_index("metric")[["value", "low", "high"]]
        rows.append({"layer": int(each["layer"].iloc[0]), "recipe": recipe, "tokens": int(tokens)})
        rows[-1] |= {
            metric: [None if pd.isna(value) else float(value) for value in values.loc[metric]] for metric in METRICS
        }
    return rows


def markdown(found: dict) -> str:
    lines = [
        "# From the layer before, or from random directions",
        "",
        "`python -m benchmarks.starts` trains the default's recipe on pairs of neighbouring layers: each layer from random",
        "directions, and the second from the first snapshot of the one before it (`start_from: {layer: previous}`), which has",
        f"seen {found['first']} tokens. One seed, the same stores; CE recovered (zero ablation) and FVU on held-out text, 95%",
        "intervals.",
        "",
        f"{found['machine']}, {found['date']}.",
    ]
    for layer in dict.fromkeys(row["layer"] for row in found["rows"]):
        lines += [
            "",
            f"## Layer {layer}",
            "",
            "| tokens | start | CE recovered | FVU | dead |",
            "|---|---|---|---|---|",
        ]
        rows = sorted((row for row in found["rows"] if row["layer"] == layer), key=lambda row: row["tokens"])
        for row in rows:
            start = "the layer before" if row["recipe"] == PREVIOUS else "random"
            ce, fvu = ("{:.3f} ({:.3f} to {:.3f})".format(*row[metric]) for metric in ("ce_recovered", "fvu"))
            lines.append(f"| {row['tokens']:,} | {start} | {ce} | {fvu} | {row['dead'][0]:,.0f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="tiny sizes; writes nothing unless --out is given")
    parser.add_argument("--cores", type=int, default=available_cores())
    parser.add_argument("--out", type=Path, help="folder of STARTS.md and starts.json; default benchmarks/")
    chosen = parser.parse_args()
    found = about(1, chosen.cores) | {"unit": "metric: value, low, high", "first": SNAPSHOTS[0], "rows": []}
    for pair in PAIRS[:1] if chosen.toy else PAIRS:
        found["rows"] += rows_of(run(config_of(pair, chosen.toy), chosen.cores))
        if chosen.out or not chosen.toy:
            write(chosen.out or Path(__file__).parent, "starts", found, markdown(found))
    print(markdown(found))


if __name__ == "__main__":
    main()
