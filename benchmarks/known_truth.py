"""Which SAEs find known features, beside SAELens': `python -m benchmarks.known_truth [--toy] [--tokens N] [--only NAME ...]`.

A world in the manner of SAELens' SynthSAEBench at an eighth of its features: Zipf's law, correlation, trees with exclusive
children, as many latents as features. The same rows in the same order for both libraries. Every checkpoint is measured by
sae_atlas.metrics.truth and by SAELens' own functions (sae_lens.synthetic.evals). What is in known_truth.json stays as it
is, so that it can be made in portions and for several numbers of rows; delete it to measure anew.
"""

import itertools
import json
import tempfile
from functools import partial
from pathlib import Path

import torch

from benchmarks import contestants
from benchmarks.contestants import L0, Contestant, by_trainer
from benchmarks.real import Real, config_of, options
from benchmarks.report import about, earlier, spread, write
from benchmarks.stubs import put_in_place
from sae_atlas.activations.save_rows import save_rows
from sae_atlas.base_models.prepare import prepare_rows
from sae_atlas.config.synthetic import Generator
from sae_atlas.io.files import read_json
from sae_atlas.io.tables import read_rows
from sae_atlas.metrics.held_out import open_held_out
from sae_atlas.metrics.held_out_rows import save_held_out_rows
from sae_atlas.metrics.truth import known_truth
from sae_atlas.row_corpus import number_rows
from sae_atlas.saes.sae import Sae
from sae_atlas.synthetic.places import rows_path
from sae_atlas.synthetic.truth import read_truth

WORLD = {"d": 256, "features": 2048, "l0": L0, "zipf": 0.5, "correlation": 0.1, "magnitude": 4.5, "magnitude_std": 0.5}
TREES = {"roots": 16, "children": 4, "depth": 3, "exclusive": 1.0}
TOY = {"d": 64, "features": 512}  # as many latents, of which L0 are active
RATES = (1e-3, 3e-3)
OURS = ("mcc", "f1", "precision", "recall", "uniqueness", "parent_absorption", "fvu", "l0", "true_l0", "dead")
BY_BOTH = ("mcc", "f1", "precision", "recall", "uniqueness")
COLUMNS = {"mcc": "MCC", "f1": "F1", "precision": "precision", "recall": "recall", "uniqueness": "uniqueness"}
COLUMNS |= {"parent_absorption": "absorption", "fvu": "FVU", "l0": "L0", "dead": "dead latents"}


class World(Real):
    """Rows of the generative model, and their truth."""

    def functions(self, layers: list[int]) -> tuple:
        about = {"layers": layers, "path": rows_path(self.folder / "model")}
        return (
            partial(prepare_rows, layers=layers),
            number_rows,
            partial(save_held_out_rows, **about),
            partial(save_rows, **about),
        )

    def evaluate(self, checkpoints: dict[str, Path]) -> dict[str, dict]:
        """OURS by name of the checkpoint, and under `sae_lens` what its functions say."""
        super().evaluate(checkpoints)
        rows = read_json(self.folder / "metrics.json")["metrics"]
        table, held_out = self.folder / "truth.parquet", self.held_out / f"layer{self.layer:02d}"
        files = self.model, held_out, list(checkpoints.values()), list(checkpoints), table
        known_truth(*files, recipe="", layer=self.layer, contexts_per_batch=1024)
        values = {name: {"sae_lens": self.by_sae_lens(path)} for name, path in checkpoints.items()}
        for row in [*rows, *read_rows(table)]:
            if row["metric"] in OURS:
                values[row["snapshot"]][row["metric"]] = row["value"]
        return values

    @torch.no_grad()
    def by_sae_lens(self, checkpoint: Path) -> dict[str, float]:
        """BY_BOTH as SAELens computes them, of the checkpoint as we read it."""
        put_in_place()
        from sae_lens.synthetic import evals

        source, truth = open_held_out(self.held_out), read_truth(self.model.parent, self.layer)
        ids, sae = source.rows("tokens")[:].ravel(), Sae.load(checkpoint)
        x = torch.from_numpy(source.rows(f"layer{self.layer:02d}/site")[:]).flatten(0, 1)
        active, true = torch.from_numpy(truth.active(ids).toarray()), torch.from_numpy(truth.directions)
        firing = evals.compute_classification_metrics(sae.encode(x), active, sae.W_dec, true)
        values = {"f1": firing.f1_score, "precision": firing.precision, "recall": firing.recall}
        values["mcc"] = evals.mean_correlation_coefficient(sae.W_dec, true)
        return values | {"uniqueness": evals.feature_uniqueness(sae.W_dec, true)}


def world(tokens: int, toy: bool) -> dict:
    """Resolved config of the rows."""
    generator = Generator(**WORLD | (TOY if toy else {}), hierarchy=TREES if not toy else TREES | {"depth": 2}).plain()
    held_out = 500 if toy else 10_000
    corpus = {"name": "rows", "source": "rows", "context": 1, "tokens": tokens, "held_out_tokens": held_out, "seed": 0}
    base_model = {"name": "world", "source": "synthetic", "generator": generator, "dtype": "float32"}
    return config_of(base_model, corpus, (0,), tokens, {"tokens": held_out})


def trainers(batch: int) -> list[Contestant]:
    settings = tuple({"batch": batch, "learning_rate": rate} for rate in RATES)
    return [
        Contestant(library, architecture, settings, train)
        for architecture in ("topk", "batch_topk", "matryoshka")
        for library, train in (("sae_atlas", contestants.ours), ("sae_lens", contestants.sae_lens))
    ]


def rows_of(real: World, contestant: Contestant, seeds: int, there: list[dict]) -> list[dict]:
    """Every setting on seed 0; the one of the lowest FVU, which needs no truth, on the other seeds.

    there: rows that were measured before, which are not measured again.
    """

    def trained(setting: dict, seed: int) -> dict:
        about = {
            "tokens": real.tokens,
            "library": contestant.library,
            "architecture": contestant.architecture,
            "setting": setting,
            "seed": seed,
        }
        if before := [row for row in there if row | about == row]:
            return before[0]
        path = real.folder / f"{contestant.name.replace(' ', '_')}.pt"
        speed = contestant.train(real, real.store(), contestant.architecture, setting, seed, path)
        print(contestant.name, setting, "seed", seed, f"{speed:.0f} tokens/s", flush=True)
        return about | real.evaluate({"": path})[""]

    tried = [trained(setting, 0) for setting in contestant.settings]
    best = min(tried, key=lambda row: row["fvu"])["setting"]
    rows = tried + [trained(best, seed) for seed in range(1, seeds)]
    return [row | {"chosen": row["setting"] == best} for row in rows]


def _table(rows: list[dict]) -> list[str]:
    """A line per trainer, over its seeds."""
    lines = [
        "| architecture | library | " + " | ".join(COLUMNS.values()) + " | seeds |",
        "|---|---|" + "---|" * (len(COLUMNS) + 1),
    ]
    forms = {"l0": "{:.1f}", "dead": "{:.0f}"}
    for library, architecture in dict.fromkeys((row["library"], row["architecture"]) for row in rows):
        of_trainer = [row for row in rows if (row["library"], row["architecture"]) == (library, architecture)]
        cells = [spread([row[name] for row in of_trainer], forms.get(name, "{:.3f}")) for name in COLUMNS]
        lines.append(f"| {architecture} | {library} | {' | '.join(cells)} | {len(of_trainer)} |")
    return lines


def markdown(found: dict) -> str:
    rows, about = found["rows"], found["world"]
    difference = max(abs(row[name] - row["sae_lens"][name]) for row in rows for name in BY_BOTH)
    lines = [
        "# Which SAEs find known features",
        "",
        f"Synthetic rows of {about['features']:,} features in {about['d']} dimensions, {about['l0']} of them active in a row:",
        f"Zipf exponent {about['zipf']}, correlation {about['correlation']}, trees with exclusive children, in the manner of",
        f"SAELens' SynthSAEBench at an eighth of its features. As many latents as features, k {L0}, the rows",
        "once, in the same order for both libraries. Median over the seeds (lowest to highest). Of learning rates",
        f"{' and '.join(map(str, RATES))} the one of the lower FVU on seed 0 goes on. What the metrics mean:",
        "[docs/known-truth.md](../docs/known-truth.md). `python -m benchmarks.known_truth` makes this page; `--tokens`",
        "sets the rows.",
        "",
        f"Each SAE was measured by both codes, in {', '.join(COLUMNS[name] for name in BY_BOTH)}:",
        f"they differ by {difference:.1e} at most.",
        "",
        "For its own world at L0 25 SAELens publishes another order (Matryoshka F1 0.879, BatchTopK 0.732), of runs that",
        "are by default 100 million rows long.",
        "",
        f"{found['machine']}, {found['date']}.",
    ]
    for tokens in sorted({row["tokens"] for row in rows}):
        lines += [
            "",
            f"## {tokens:,} rows",
            "",
            *_table([row for row in rows if row["tokens"] == tokens and row["chosen"]]),
        ]
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items() if number)
    return "\n".join([*lines, "", f"Versions: {versions}."]) + "\n"


def main() -> None:
    parser = options(__doc__.splitlines()[0], "known_truth")
    parser.add_argument("--tokens", type=int, help="rows, one epoch; default 500,000")
    names = [each.name for each in trainers(512)]
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help="as 'sae_lens topk'; default all")
    chosen = parser.parse_args()
    out = chosen.out or (None if chosen.toy else Path(__file__).parent)
    with tempfile.TemporaryDirectory() as temporary:
        config = world(chosen.tokens or (4_000 if chosen.toy else 500_000), chosen.toy)
        real = World(chosen.data or Path(temporary), config)
        found = about(chosen.seeds, 2) | {"unit": "one row per trained SAE", "world": config["base_model"]["generator"]}
        rows = by_trainer(earlier(out, "known_truth", found, ("versions", "world")))
        everyone = trainers(128 if chosen.toy else 512)
        for trainer in [each for each in everyone if not chosen.only or each.name in chosen.only]:
            key = (real.tokens, trainer.library, trainer.architecture)
            rows[key] = rows_of(real, trainer, chosen.seeds, rows.get(key, []))
            found["rows"] = list(itertools.chain(*rows.values()))
            write(out, "known_truth", found, markdown(found))
    print(json.dumps(found["rows"], indent=1) if chosen.toy else markdown(found))


if __name__ == "__main__":
    main()
