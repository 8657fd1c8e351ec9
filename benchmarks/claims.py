"""What peers claim, tried on the embedded default: `python -m benchmarks.claims [--toy] [--only NAME ...]`.

Each claim is trained as our own recipe is but for what it changes (claim_trainers.py), on the same stored rows, and measured
beside ours at an equal L0. Settings are tried on one layer with one seed; the best goes on to two other layers and all
seeds. Rows that are in claims.json stay as they are; delete it to measure anew. Writes CLAIMS.md and claims.json.
"""

import itertools
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import claim_trainers as trainers
from benchmarks.claims_report import FAR, L0_ALIKE, chosen_row, markdown, mean, rows_of, without_sparsity
from benchmarks.contestants import LAYERS
from benchmarks.real import Real, default, default_recipe, options, toy
from benchmarks.report import about, earlier, write
from sae_atlas.base_models.load import load
from sae_atlas.metrics.evaluate import add_up
from sae_atlas.metrics.held_out import open_held_out
from sae_atlas.metrics.layer_data import LayerData
from sae_atlas.saes.sae import Sae

MEASURED = (14, 10, 22)  # of LAYERS; settings are chosen on the first, and reported on the others
METRICS = ("ce_recovered", "kl_recovered", "fvu", "l0")


@dataclass(frozen=True)
class Claim:
    """train(real, recipe, **setting) gives an SAE. beside: the name of ours that it is measured by; None: it is ours.

    A setting's `k` or `target_l0` is the recipe's (`asked`), so that the L0 on held-out text is that of ours.
    """

    name: str
    beside: str | None
    recipe: dict
    train: Callable[..., Sae]
    settings: tuple[dict, ...] = ({},)


def claims(small: bool = False) -> list[Claim]:
    """Ours first. small: with sizes for `toy`'s model."""
    default = default_recipe(small)[1]
    k, sizes = default["k"], {name: default[name] for name in ("expansion", "batch", "warmup")}
    per_token = default | {"architecture": "topk"}
    in_turn = {key: value for key, value in default.items() if key != "auxk"} | {"architecture": "matching_pursuit"}
    steered = {"expansion": 8, "learning_rate": 2e-3, "clip": 0.1, "warmup": 20, "sparsity_warmup": 20}
    relu = steered | {"architecture": "relu", "batch": sizes["batch"] // 2, "dead_after": 10_000}
    relu |= {"l1": {"coefficient": 0.1, "target_l0": 1.5 * k}}
    jump = sizes | {"architecture": "jumprelu", "learning_rate": 3e-3, "sparsity_warmup": 50, "dead_after": 10_000}
    jump |= {"jumprelu": {"target_l0": k, "bandwidth": 0.01, "threshold": 0.01}}
    # Anthropic's bandwidth 2, threshold 0.1, scale 4 and weight 3e-6, said where E||x||^2 is d_in = 576.
    tanh = jump | {"jumprelu": {"target_l0": k, "bandwidth": 0.083, "threshold": 0.0042, "coefficient": 0.01}}
    tanh |= {"sparsity_warmup": 20}
    whitenings = tuple({"shrink": shrink} for shrink in (1e-6, 0.1, 1, 10))
    decays = tuple({"start": start * k, "over": over} for start, over in ((2, 0.5), (4, 0.25), (4, 0.5), (10, 0.25)))
    return [
        Claim("BatchTopK", None, default, trainers.plain),
        Claim("TopK", None, per_token, trainers.plain),
        Claim("JumpReLU", None, jump, trainers.plain),
        Claim("ReLU", None, relu, trainers.plain),
        Claim("whitening", "BatchTopK", default, trainers.whitened, whitenings),
        Claim("k-decay", "BatchTopK", default, trainers.decaying, decays),
        Claim("AbsTopK", "BatchTopK", per_token, trainers.of_either_sign),
        Claim("AbsTopK of a batch", "BatchTopK", default, trainers.of_either_sign),
        Claim("matching pursuit", "BatchTopK", in_turn, trainers.plain),
        Claim("p-annealing", "ReLU", relu, trainers.annealed, ({"p_end": 0.5}, {"p_end": 0.2})),
        Claim("tanh penalty", "JumpReLU", tanh, trainers.with_tanh,
              ({"scale": 96.0, "pre_act": 1.25e-7},)),
    ]  # fmt: skip


def measured(real: Real, saes: list[Sae], expansion: int) -> list[dict]:
    """Of each SAE the METRICS, with the ends of their intervals, and its dead latents. A latent of either sign is one."""
    source, evaluation = open_held_out(real.held_out), real.config["evaluation"]
    data = LayerData(source, f"layer{real.layer:02d}", evaluation["outlier_norm"])
    model = load(real.model, source.model_dtype, "cpu")[0]
    named = {str(number): sae for number, sae in enumerate(saes)}
    found = []
    for sums in add_up(data, model, real.layer, named, evaluation["contexts_per_batch"]).values():
        rows = {row["metric"]: row for row in sums.rows(sums)}
        values = {name: [rows[name][key] for key in ("value", "low", "high")] for name in METRICS}
        fired = sums.alive.view(-1, expansion * sums.sae.d_in).any(0)
        found.append(values | {"dead": int((~fired).sum())})
    return found


def tried(real: Real, claim: Claim, runs: list[tuple[dict, int]], rows: list[dict]) -> list[dict]:
    """`rows` and those of `runs` (setting, seed) that are not among them."""
    there = [(row["setting"], row["seed"]) for row in rows if (row["claim"], row["layer"]) == (claim.name, real.layer)]
    new, saes = [], []
    for setting, seed in (each for each in runs if each not in there):
        began = time.process_time()
        recipe = asked(claim.recipe, setting) | {"seed": seed}
        saes.append(claim.train(real, recipe, **without_sparsity(setting)))
        row = {"claim": claim.name, "beside": claim.beside, "layer": real.layer, "setting": setting, "seed": seed}
        new.append(row | {"seconds": time.process_time() - began})  # of the processor
        print(new[-1], flush=True)
    if new:
        for row, values in zip(new, measured(real, saes, claim.recipe["expansion"]), strict=True):
            row |= values
    return rows + new


def asked(recipe: dict, setting: dict) -> dict:
    """The recipe with the setting's own `k` or `target_l0`."""
    if "k" in setting:
        return recipe | {"k": setting["k"]}
    section = "l1" if "l1" in recipe else "jumprelu"
    return (
        recipe | {section: recipe[section] | {"target_l0": setting["target_l0"]}} if "target_l0" in setting else recipe
    )


def at_equal_l0(claim: Claim, layer: int, settings: list[dict], rows: list[dict]) -> list[dict]:
    """Of the settings whose L0 is not like that of ours those that ask for as many latents more or less."""
    again = []
    for setting in settings if claim.beside else []:
        ratio = mean(rows_of(rows, claim.beside, layer), "l0") / mean(rows_of(rows, claim.name, layer, setting), "l0")
        recipe = asked(claim.recipe, setting)
        if "k" in recipe:
            other = {"k": round(recipe["k"] * ratio)}
        else:
            other = {"target_l0": round(recipe["l1" if "l1" in recipe else "jumprelu"]["target_l0"] * ratio, 1)}
        if abs(1 / ratio - 1) > L0_ALIKE and asked(recipe, other) != recipe:
            again.append(setting | other)
    return again


def measure(reals: dict[int, Real], of_all: list[Claim], seeds: int, rows: list[dict]) -> Iterator[list[dict]]:
    """All rows, again after every layer of a claim. Where the L0 is not like that of ours, a setting is trained once more."""
    first = next(iter(reals))
    for claim in of_all:
        settings = list(claim.settings)
        for layer, real in reals.items():
            of_seeds = range(1 if layer == first else seeds)
            rows = tried(real, claim, list(itertools.product(settings, of_seeds)), rows)
            again = at_equal_l0(claim, layer, settings, rows)
            rows = tried(real, claim, list(itertools.product(again, of_seeds)), rows)
            yield rows
            if layer == first:
                ours, best = (chosen_row(rows, name, first) for name in (claim.beside or claim.name, claim.name))
                settings = [best["setting"]]
                if best["ce_recovered"][0] < ours["ce_recovered"][0] - FAR:
                    break


def main() -> None:
    parser = options(__doc__.splitlines()[0], "claims")
    parser.add_argument("--tokens", type=int, default=120_000, help="of the text, one epoch")
    names = [each.name for each in claims()]
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help="as 'k-decay'; default all")
    parser.set_defaults(seeds=2)
    chosen = parser.parse_args()
    out = chosen.out or (None if chosen.toy else Path(__file__).parent)
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.data or Path(temporary)
        config = toy(folder, (1, 0)) if chosen.toy else default(chosen.tokens, LAYERS)
        reals = {layer: Real(folder, config, layer) for layer in ((1, 0) if chosen.toy else MEASURED)}
        found = about(chosen.seeds, 1) | {
            "unit": "one row per SAE: value, low, high",
            "tokens": chosen.tokens,
            "rows": [],
        }
        found |= {"chosen_on": next(iter(reals)), "patched_tokens": config["evaluation"]["patched_tokens"]}
        rows = earlier(out, "claims", found, ("versions", "tokens"))
        of_all = [each for each in claims(chosen.toy) if not chosen.only or each.name in chosen.only]
        for found["rows"] in measure(reals, of_all, chosen.seeds, rows):
            write(out, "claims", found, markdown(found))
    print(json.dumps(found["rows"], indent=1) if chosen.toy else markdown(found))


if __name__ == "__main__":
    main()
