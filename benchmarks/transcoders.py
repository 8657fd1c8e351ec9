"""How good transcoders are, beside sparsify's: `python -m benchmarks.transcoders [--toy]`.

From mlp_in to mlp_out of the embedded default, TopK, the same stored pairs, latents and k, one evaluation. Settings are tried
and chosen on one layer as in the table of SAEs (quality.py), and reported on two others, too.
"""

import json
import tempfile
from functools import partial
from pathlib import Path

from benchmarks import contestants
from benchmarks.contestants import Contestant
from benchmarks.quality import earlier, measure
from benchmarks.quality_report import chosen_rows, tried_rows
from benchmarks.real import Real, default, options, toy
from benchmarks.report import about, write

LAYERS = (14, 7, 25)  # settings are chosen on the first
SITES = {"site": "mlp_in", "target": "mlp_out"}
SKIP = "topk, skip"


def of_kind(train, real: Real, store: Path, architecture: str, setting: dict, seed: int, checkpoint: Path) -> float:
    """The trainer of the architecture, told of the skip connection."""
    setting = setting | ({"skip": True} if architecture == SKIP else {})
    return train(real, store, architecture.removesuffix(", skip"), setting, seed, checkpoint)


def trainers(batch: int = 512) -> list[Contestant]:
    rates = [{"batch": batch, "learning_rate": rate} for rate in (1e-3, 2e-3, 3e-3, 5e-3)]
    ours = [rate | {"decay": 0.333, "dead_after": 5_000} for rate in rates[1:]]
    theirs = [{"batch": batch, "learning_rate": "default"}, *rates]
    return [
        Contestant(library, architecture, tuple(settings), partial(of_kind, train))
        for architecture in ("topk", SKIP)
        for library, settings, train in (
            ("sae_atlas", ours, contestants.ours),
            ("sparsify", theirs, contestants.sparsify),
        )
    ]


def markdown(found: dict) -> str:
    rows = found["rows"]
    first, *others = dict.fromkeys(row["layer"] for row in rows if "reason" not in row)
    lines = [
        "# How good the transcoders are",
        "",
        "The embedded default, what the MLP reads to what it adds to the stream (`mlp_in` to `mlp_out`), 4,608 latents, k 32,",
        f"{rows[0]['tokens']:,} tokens once: the same stored pairs in the same order for both, measured on held-out text by",
        "`sae_atlas.metrics`. FVU is of the MLP's output; CE recovered is of the model with the layer's MLP replaced, against",
        "the MLP's output set to zeros. Median over the seeds (lowest to highest). Settings were chosen on layer",
        f"{first} as in [QUALITY.md](QUALITY.md). `python -m benchmarks.transcoders` makes this page.",
        "",
        f"{found['machine']}, {found['date']}.",
    ]
    for layer in [*sorted(others), first]:
        chosen_on = ", on which the settings were chosen" if layer == first else ""
        lines += ["", f"## Layer {layer}{chosen_on}", ""]
        lines += chosen_rows([row for row in rows if row.get("layer", layer) == layer])
    tried = [row for row in rows if row.get("layer") == first and row["seed"] == 0]
    lines += ["", f"## Settings tried on layer {first}, seed 0", "", *tried_rows(tried)]
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items() if number)
    return "\n".join([*lines, "", f"Versions: {versions}."]) + "\n"


def main() -> None:
    parser = options(__doc__.splitlines()[0], "transcoders")
    parser.add_argument("--tokens", type=int, default=120_000, help="of the text, one epoch")
    chosen = parser.parse_args()
    out = chosen.out or (None if chosen.toy else Path(__file__).parent)
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.data or Path(temporary)
        config = toy(folder, (1, 0)) if chosen.toy else default(chosen.tokens, LAYERS)
        config["activations"] |= SITES
        reals = {layer: Real(folder, config, layer) for layer in config["activations"]["layers"]}
        found = about(chosen.seeds, 2) | {"unit": "one row per trained transcoder", "rows": []}
        rows = earlier(out, "transcoders", found)
        for found["rows"] in measure(reals, trainers(128 if chosen.toy else 512), chosen.seeds, rows):
            write(out, "transcoders", found, markdown(found))
    print(json.dumps(found["rows"], indent=1) if chosen.toy else markdown(found))


if __name__ == "__main__":
    main()
