"""Our FVU, L0 and losses beside SAELens' own evaluation of the same SAE on the same tokens.

`python -m benchmarks.independent --results results --recipe batchtopk-32 --layer 14` looks at a finished atlas in that folder;
without `--results` at SAEs of three architectures on a small random model.
SAELens' `run_evals` does its own passes, hooks and sums; only the tokens come from us. Ends with exit code 1 if a
difference over TOLERANCE is not explained. SAELens must be installed (benchmarks/requirements.lock).
"""

import argparse
import sys
import tempfile
from pathlib import Path

import pandas as pd
import torch

from benchmarks.stubs import put_in_place
from sae_atlas.base_models.load import load, load_tokenizer
from sae_atlas.base_models.prepare import prepare
from sae_atlas.config.read import complete_recipe
from sae_atlas.corpus import tokenize
from sae_atlas.io.files import read_json
from sae_atlas.io.provenance import make_record
from sae_atlas.metrics.evaluate import evaluate
from sae_atlas.metrics.held_out import open_held_out, save_held_out
from sae_atlas.saes import checkpoint as checkpoints
from sae_atlas.saes.parts import initial_weights
from sae_atlas.saes.sae import Sae
from sae_atlas.sites.hooks import patch
from sae_atlas.sites.measure import measure

TOLERANCE = 1e-3
RECORD = make_record("benchmark", {}, "", {})
ARCHITECTURES = ("topk", "relu", "jumprelu")
BATCH = 8  # contexts


def compare(results: Path, recipe: str, layer: int) -> list[dict]:
    """A row per metric: ours, theirs, and why they differ by more than TOLERANCE, where a further measurement says so."""
    table = results / "metrics" / recipe / f"layer{layer:02d}"
    measured = read_json(f"{table}.json")
    ours = {row["metric"]: row["value"] for row in measured["metrics"] if row["snapshot"] == "final"}
    held_out = open_held_out(results / "held_out.zarr")
    if held_out.attrs["site"] != "resid_post":
        raise SystemExit(f"{results}: only resid_post is a module's own output; its site is {held_out.attrs['site']}")
    model, _ = load(results / "base_model" / "provenance.json", held_out.model_dtype)
    tokenizer = load_tokenizer(results / "base_model" / "provenance.json")
    sae = Sae.load(_checkpoint(results, recipe, layer, measured))
    tokens, mask = (torch.from_numpy(held_out.rows(name)[:]) for name in ("tokens", "mask"))
    starts = tokens[~mask].unique().tolist()
    if starts and torch.isin(tokens, torch.tensor(starts))[mask].any():
        raise SystemExit(f"{results}: its mask is not one of token ids, which is all that SAELens knows")
    patched = held_out.attrs["patched"]
    theirs = _run_evals(model, tokenizer, sae, layer, tokens, patched, starts)
    everywhere = _zero_everywhere(model, layer, tokens[:patched], mask[:patched])
    rows = [
        _row("fvu", ours["fvu"], 1 - theirs["explained_variance"]),
        _row("l0", ours["l0"], theirs["l0"]),
        _row("mse", ours["mse"], theirs["mse"]),
        _row("cosine", ours["cosine"], theirs["cossim"]),
        _row("norm_ratio", ours["norm_ratio"], theirs["l2_ratio"]),
        _row("ce_clean", ours["ce_clean"], theirs["ce_loss_without_sae"]),
        _row("ce_sae", ours["ce_sae"], theirs["ce_loss_with_sae"]),
        _row("ce_zero", ours["ce_zero"], theirs["ce_loss_with_ablation"], everywhere),
    ]
    recovered = (everywhere - ours["ce_sae"]) / (everywhere - ours["ce_clean"])
    return [*rows, _row("ce_recovered", ours["ce_recovered"], theirs["ce_loss_score"], recovered)]


def _row(metric: str, ours: float, theirs: float, ours_as_theirs: float | None = None) -> dict:
    """ours_as_theirs: our number with document starts zeroed too, as SAELens does; ours leaves masked positions alone."""
    found = {"metric": metric, "ours": ours, "theirs": theirs, "difference": ours - theirs, "explained": ""}
    if _near(ours, theirs):
        return found
    if ours_as_theirs is not None and _near(ours_as_theirs, theirs):
        return found | {"explained": f"SAELens zeroes document starts too; so done, ours is {ours_as_theirs:.5f}"}
    return found | {"explained": None}


def _near(ours: float, theirs: float) -> bool:
    """Within TOLERANCE, relative for numbers above 1."""
    return abs(ours - theirs) <= TOLERANCE * max(1.0, abs(ours))


def _checkpoint(results: Path, recipe: str, layer: int, measured: dict) -> Path:
    """The file whose tokens are those of the final snapshot."""
    last = measured["checkpoints"]["final"]["config"]["record"]["identity"]
    for path in sorted((results / "checkpoints" / recipe).glob(f"sae_layer{layer:02d}_*.pt")):
        if not path.name.endswith(".resume.pt") and Sae.load(path).config["record"]["identity"] == last:
            return path
    raise SystemExit(f"{results}: the final checkpoint of layer {layer} is not there")


def as_saelens(sae: Sae, hook: str, context: int):
    """The same SAE as SAELens holds it."""
    from sae_lens import JumpReLUSAE, JumpReLUSAEConfig, StandardSAE, StandardSAEConfig, TopKSAE, TopKSAEConfig
    from sae_lens.saes.sae import SAEMetadata

    common = {"d_in": sae.d_in, "d_sae": sae.d_sae, "apply_b_dec_to_input": True}
    common["metadata"] = SAEMetadata(hook_name=hook, context_size=context, prepend_bos=False)
    if sae.k is not None:
        made = TopKSAE(TopKSAEConfig(k=sae.k, rescale_acts_by_decoder_norm=False, **common))
    elif sae.architecture == "relu":
        made = StandardSAE(StandardSAEConfig(**common))
    else:
        made = JumpReLUSAE(JumpReLUSAEConfig(**common))
    weights = {name: getattr(sae, name) for name, _ in made.named_parameters()}
    made.load_state_dict(weights)
    return made.eval()


class Tokens:
    """What SAELens' evaluation asks of its activation store: the held-out contexts, in order."""

    store_batch_size_prompts = BATCH

    def __init__(self, tokens: torch.Tensor):
        self.tokens, self.context_size = tokens, tokens.shape[1]
        self.reset_input_dataset()

    def reset_input_dataset(self) -> None:
        self.batches = iter(self.tokens.split(BATCH))

    def get_batch_tokens(self, _batch_size: int) -> torch.Tensor:
        return next(self.batches)


def _run_evals(model, tokenizer, sae: Sae, layer: int, tokens: torch.Tensor, patched: int, starts: list[int]) -> dict:
    """SAELens' metrics: losses on the first `patched` contexts, the rest on all."""
    from sae_lens.evals import EvalConfig, run_evals
    from sae_lens.load_model import HookedProxyLM
    from sae_lens.training.activation_scaler import ActivationScaler

    hook = measure(model).blocks[layer].module
    proxy = HookedProxyLM(model, tokenizer, hook_names=[hook])
    theirs = as_saelens(sae, hook, tokens.shape[1])
    found = {}
    for part, wanted in (
        (tokens[:patched], {"compute_ce_loss": True, "n_eval_reconstruction_batches": -(-patched // BATCH)}),
        (tokens, {"compute_sparsity_metrics": True, "compute_variance_metrics": True, "compute_l2_norms": True,
                  "n_eval_sparsity_variance_batches": -(-len(tokens) // BATCH)}),
    ):  # fmt: skip
        config = EvalConfig(batch_size_prompts=BATCH, **wanted)
        metrics, _ = run_evals(theirs, Tokens(part), proxy, ActivationScaler(), config, exclude_special_tokens=starts)
        for group in metrics.values():
            found |= group
    return found


@torch.inference_mode()
def _zero_everywhere(model, layer: int, tokens: torch.Tensor, mask: torch.Tensor) -> float:
    """Our cross-entropy with the site zeroed at every position, document starts included."""
    total, count = 0.0, 0
    for part, kept in zip(tokens.split(BATCH), mask[:, :-1].split(BATCH), strict=True):
        with patch(model, "resid_post", layer, torch.zeros_like):
            logits = model(part, use_cache=False).logits[:, :-1]
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten(), reduction="none")
        total += float(losses[kept.flatten()].double().sum())
        count += int(kept.sum())
    return total / count


def small_atlas(folder: Path) -> None:
    """What `compare` reads: a random GPT-NeoX, held-out text, an SAE per architecture that loses something."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
    model = {"source": "random", "architecture": "gpt_neox", "seed": 0, "tokenizer": "bytes"}
    model["sizes"] = sizes | {"initializer_range": 0.3}  # large enough that its blocks matter
    provenance, corpus = folder / "base_model" / "provenance.json", folder / "corpus.zarr"
    prepare(provenance, **model)
    text = folder / "text.txt"
    text.write_text("\n\n".join(f"Document {number} says {number * 37}." for number in range(400)), encoding="utf-8")
    tokenize(provenance, corpus, {"source": "local", "path": str(text)}, 16, 500, 900, 0)
    sizes = {"tokens": 800, "patched_tokens": 400, "contexts_per_batch": 8, "model_dtype": "float32"}
    save_held_out(provenance, corpus, folder / "held_out.zarr", layers=[1], site="resid_post", **sizes)
    for recipe in ARCHITECTURES:
        settings = {"recipe": recipe, "layer": 1, "contexts_per_batch": 8, "outlier_norm": 10}
        path = folder / "checkpoints" / recipe / "sae_layer01_1k.pt"
        outputs = [
            folder / "metrics" / recipe / name for name in ("t.parquet", "l.parquet", "b.parquet", "layer01.json")
        ]
        _random_sae(path, recipe, d_in=32)
        evaluate(folder / "held_out.zarr" / "layer01", provenance, [path], ["final"], *outputs, **settings)


def _random_sae(path: Path, architecture: str, d_in: int) -> None:
    recipe = complete_recipe(
        {"architecture": architecture, "expansion": 4} | ({"k": 8} if architecture == "topk" else {})
    )
    threshold = torch.full((4 * d_in,), 0.2) if architecture == "jumprelu" else None
    weights = initial_weights(d_in, 4 * d_in, torch.zeros(d_in), 0)
    weights["b_enc"] -= 0.3
    config = {"recipe": recipe, "d_in": d_in, "d_sae": 4 * d_in, "tokens": 1000, "record": RECORD}
    config["normaliser"] = {"mean": torch.zeros(d_in), "scale": 1.0}
    checkpoints.save(path, checkpoints.fold(weights, threshold, torch.zeros(d_in), 1.0), config, {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, help="of a finished atlas; needs --recipe and --layer")
    parser.add_argument("--recipe")
    parser.add_argument("--layer", type=int)
    chosen = parser.parse_args()
    put_in_place()
    with tempfile.TemporaryDirectory() as folder:
        if chosen.results:
            rows = compare(chosen.results, chosen.recipe, chosen.layer)
        else:
            small_atlas(Path(folder))
            rows = [row for recipe in ARCHITECTURES for row in compare(Path(folder), recipe, 1)]
    print(pd.DataFrame(rows).to_string(index=False))
    sys.exit(any(row["explained"] is None for row in rows))


if __name__ == "__main__":
    main()
