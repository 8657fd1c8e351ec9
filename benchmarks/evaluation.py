"""Evaluation of all snapshots of a layer with kept passes, and of each from scratch: `python -m benchmarks.evaluation [--toy]`.

From scratch, for every SAE: the clean pass over all held-out contexts, and zero-ablated, mean-ablated and patched passes of
the whole model over those with losses. Nothing kept: our own code, which skips the blocks before the site, with its passes
made again for every SAE. Kept: the passes that do not depend on an SAE are made once per base model, for all layers,
snapshots and recipes. The SAEs are random: what they say does not change what they cost.
"""

import argparse
import datetime
import json
import os
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from benchmarks.report import cpu, write
from sae_atlas.base_models.load import load
from sae_atlas.base_models.prepare import prepare
from sae_atlas.config.read import complete_recipe
from sae_atlas.corpus import tokenize
from sae_atlas.io.files import read_json
from sae_atlas.metrics.evaluate import evaluate
from sae_atlas.metrics.held_out import open_held_out, save_held_out
from sae_atlas.metrics.losses import clean_predictions, losses
from sae_atlas.metrics.reconstruction import token_sums
from sae_atlas.saes import checkpoint as checkpoints
from sae_atlas.saes.parts import initial_weights
from sae_atlas.saes.sae import Sae
from sae_atlas.sites.hooks import capture, patch

CONTEXTS = 8  # in a batch
ROUNDS = 3
TEXT = {"source": "package", "package": "wikipedia-introductions"}
EMBEDDED = {"source": "package", "package": "smollm2-135m-instruct"}
TINY = {
    "source": "random",
    "architecture": "gpt_neox",
    "sizes": {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64},
    "seed": 0,
    "tokenizer": "bytes",
}


class Bench:
    """A base model, held-out text and random SAEs of one layer in a folder."""

    def __init__(
        self, folder: Path, model: dict, context: int, tokens: int, patched: int, snapshots: int, expansion: int
    ):
        self.folder, self.tokens, self.patched = folder, tokens, patched
        self.provenance, self.corpus = folder / "model" / "provenance.json", folder / "corpus.zarr"
        prepare(self.provenance, **model)
        tokenize(self.provenance, self.corpus, TEXT, context, 2 * context, 2 * tokens, 0)
        facts = read_json(self.provenance)
        self.layers, self.layer = facts["n_layers"], facts["n_layers"] // 2
        self.saes = {f"{number}": self._sae(number, facts["d_model"], expansion) for number in range(snapshots)}

    def _sae(self, number: int, d_in: int, expansion: int) -> Path:
        recipe = complete_recipe({"architecture": "topk", "expansion": expansion, "k": 32})
        state = checkpoints.fold(
            initial_weights(d_in, expansion * d_in, torch.zeros(d_in), number), None, torch.zeros(d_in), 1.0
        )
        config = {"recipe": recipe, "d_in": d_in, "d_sae": expansion * d_in, "tokens": number}
        checkpoints.save(self.folder / f"{number}.pt", state, config | {"normaliser": {"scale": 1.0}}, {})
        return self.folder / f"{number}.pt"

    def keep(self, layers: list[int]) -> float:
        """Seconds of the passes that do not depend on an SAE."""
        began = time.perf_counter()
        save_held_out(
            self.provenance,
            self.corpus,
            self.folder / "held_out.zarr",
            layers=layers,
            site="resid_post",
            tokens=self.tokens,
            patched_tokens=self.patched,
            contexts_per_batch=CONTEXTS,
            model_dtype="float32",
        )
        return time.perf_counter() - began

    def measure(self, *names: str) -> float:
        """Seconds of evaluating these SAEs with the passes at hand."""
        began = time.perf_counter()
        evaluate(
            self.folder / "held_out.zarr" / f"layer{self.layer:02d}",
            self.provenance,
            [self.saes[name] for name in names],
            names,
            self.folder / "table.parquet",
            self.folder / "latents.parquet",
            self.folder / "blocks.parquet",
            self.folder / "table.json",
            recipe="random",
            layer=self.layer,
            contexts_per_batch=CONTEXTS,
            outlier_norm=10,
        )
        return time.perf_counter() - began


@torch.inference_mode()
def from_scratch(bench: Bench, model, name: str) -> float:
    """Seconds of measuring one SAE as one would by hand; loading the model is left out."""
    held_out = open_held_out(bench.folder / "held_out.zarr")
    tokens, mask = (torch.from_numpy(held_out.rows(each)[:]) for each in ("tokens", "mask"))
    began = time.perf_counter()
    sae, found, clean = Sae.load(bench.saes[name]), [], []
    for number, part in enumerate(tokens.split(CONTEXTS)):
        with capture(model, "resid_post", [bench.layer], stop=False) as read:
            logits = model(part, use_cache=False).logits
        found.append(read[bench.layer].clone())
        if CONTEXTS * number < held_out.attrs["patched"]:
            clean.append(clean_predictions(logits))
    kept = torch.cat(found)[mask]
    mean = kept.mean(dim=0)
    for part in kept.split(1024):
        token_sums(part, sae(part), mean)
    changes = (torch.zeros_like, lambda x: mean.expand_as(x), sae)
    for part, before in zip(tokens.split(CONTEXTS), clean, strict=False):
        for change in changes:
            with patch(model, "resid_post", bench.layer, change):
                losses(model(part, use_cache=False).logits, part, before)
    return time.perf_counter() - began


def run(bench: Bench) -> dict:
    torch.set_num_threads(os.cpu_count())
    one, two = [bench.layer], [bench.layer, bench.layer + 1]
    bench.keep(one)  # the first pays for imports
    rounds = [(bench.keep(one), bench.keep(two)) for _ in range(ROUNDS)]
    one_layer, two_layers = map(median, zip(*rounds, strict=True))
    # What a layer more costs is its ablated passes; the rest is shared by all layers.
    ablated = two_layers - one_layer
    share = ablated + (one_layer - ablated) / bench.layers
    model, _ = load(bench.provenance, "float32")
    scratch = sum(from_scratch(bench, model, name) for name in bench.saes)
    again = sum(one_layer + bench.measure(name) for name in bench.saes)
    kept = bench.measure(*bench.saes)
    seconds = {"from scratch": scratch, "nothing kept": again, "kept": kept}
    seconds["kept, with this layer's share of the passes"] = kept + share
    return {"seconds": seconds, "times faster": {way: scratch / each for way, each in seconds.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="tiny sizes, seconds; writes nothing unless --out is given")
    parser.add_argument("--snapshots", type=int, default=6)
    parser.add_argument("--out", type=Path, help="folder of evaluation.json; default benchmarks/")
    chosen = parser.parse_args()
    sizes = (TINY, 32, 256, 128) if chosen.toy else (EMBEDDED, 128, 8000, 2000)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), *sizes, chosen.snapshots, expansion=8)
        found = {
            "work": f"layer {bench.layer} of {bench.layers}, {chosen.snapshots} SAEs, {bench.tokens:,} held-out tokens, "
            f"losses on {bench.patched:,}",
            "machine": f"{cpu()}, {os.cpu_count()} cores",
            "date": datetime.date.today().isoformat(),
            **run(bench),
        }
    print(json.dumps(found, indent=1))
    out = chosen.out or (None if chosen.toy else Path(__file__).parent)
    write(out, "evaluation", found)


if __name__ == "__main__":
    main()
