"""LoRA: low-rank updates beside a base model's frozen weights, through peft; and their merge into the weights."""

import os
from pathlib import Path

import torch

from sae_atlas.base_models.adapters import ADAPTER, META, check_base, put_on, read_meta, weights_sum
from sae_atlas.base_models.load import load, load_tokenizer
from sae_atlas.base_models.names import check_content
from sae_atlas.corpus import open_corpus
from sae_atlas.io.errors import AtlasError, listed
from sae_atlas.io.files import atomic, read_json
from sae_atlas.io.log import logger
from sae_atlas.lifecycle.fit import fit, held_out_loss
from sae_atlas.lifecycle.folder import model_args, trained_state, whole_state, write_model

# Attention's projections, in and out: architecture -> module names. Others can be named in the config.
TARGETS = {
    "gpt2": ["c_attn", "attn.c_proj"],
    "gpt_neox": ["query_key_value", "attention.dense"],
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj"],
}
MOST = 1e-5  # largest difference of logits between base plus adapter and merge


def fine_tune_lora(
    base_model: str | Path,
    corpus: str | Path,
    meta: str | Path,
    device: str = "auto",
    **settings,
) -> None:
    """Write the folder of `meta` (export_meta.json), an adapter (lifecycle.folder) of the base model, trained by `fit`.

    settings: name, base (its name), seed, lora {rank, alpha, targets or None}, fit, text (its name). The base's weights
    stay as they are, in float32. Raises AtlasError if a target is no module, or if the folder's name disagrees.
    """
    from peft import LoraConfig, get_peft_model

    folder = Path(meta).parent
    model, provenance = load(base_model, "float32", device)
    source, words = open_corpus(corpus), load_tokenizer(base_model)
    kind, args = model.config.model_type, model_args(model)
    check_content(folder.absolute(), kind, args["parameters"], "lora")
    targets = settings["lora"]["targets"] or TARGETS.get(kind)
    if targets is None:
        raise AtlasError(f"base_model.lora.targets: missing; for {kind} name the modules (known: {listed(TARGETS)})")
    before = held_out_loss(model, source, settings["fit"]["batch"] // settings["fit"]["accumulation"])
    options = {"r": settings["lora"]["rank"], "lora_alpha": settings["lora"]["alpha"], "target_modules": targets}
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings["seed"])
            tuned = get_peft_model(model, LoraConfig(**options, fan_in_fan_out=kind == "gpt2", task_type="CAUSAL_LM"))
    except ValueError as error:  # peft: not found in the base model, or of a kind it cannot change
        raise AtlasError(
            f"base_model.lora.targets: {listed(targets)} do not fit {kind}; name its linear modules"
        ) from error
    fitted = fit(tuned, source, settings["fit"], settings["seed"], folder)
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if name in fitted.best:
                weight.copy_(fitted.best[name])
    base_folder = (Path(base_model).parent / provenance["path"]).resolve()
    reached = {
        "training_type": "lora",
        **fitted.reached(source, settings["text"]),
        "val_loss_before": before,
        "trainable": sum(weight.numel() for weight in fitted.best.values()),
        "base": {
            "name": settings["base"],
            **{key: provenance[key] for key in ("source", "licence", "quantisation")},
            "path": os.path.relpath(base_folder, folder.absolute()),
            "weights_sha256": weights_sum(base_folder),
        },
    }
    settings = {**settings, "lora": {**settings["lora"], "targets": targets}}
    tuned.peft_config["default"].base_model_name_or_path = settings[
        "base"
    ]  # a name; peft writes the path on this machine
    states = {"ckpt": trained_state(fitted.best), "last": trained_state(fitted.last)}
    with atomic(folder) as partial:
        partial.mkdir()
        write_model(partial, folder.name, tuned.cpu(), words, states, settings, reached)


def merge_lora(
    base_model: str | Path,
    adapter: str | Path,
    corpus: str | Path,
    meta: str | Path,
    name: str,
    device: str = "auto",
) -> None:
    """Write the folder of `meta`, the base model with the adapter's updates added to its weights, in float32.

    Its logits are compared with those of base and adapter on held-out contexts of the adapter's corpus, both computed in
    float64. Raises AtlasError if they differ by more than 1e-5, if there is no adapter, or if it belongs to another base.
    """
    folder, adapter = Path(meta).parent, Path(adapter).parent
    if not (adapter / META).is_file() or not (adapter / ADAPTER).is_dir():
        raise AtlasError(f"{adapter}: no adapter to merge; fine-tune first (rule fine_tune_lora)")
    tuning = read_meta(adapter)
    model, provenance = load(base_model, "float32", device)
    check_base(tuning, adapter, Path(base_model).parent / provenance["path"])
    source = open_corpus(corpus)
    tokens = torch.from_numpy(source.tokens[: min(8, source.held_out)].astype("int64")).to(model.device)
    plain = _logits(model, tokens)
    tuned = put_on(model, adapter / ADAPTER)
    wanted = _logits(tuned, tokens)
    if torch.equal(plain, wanted):
        raise AtlasError(f"{adapter}: changes nothing, it was not trained; merging it would give the base model")
    merged = tuned.merge_and_unload()
    difference = float((_logits(merged, tokens) - wanted).abs().max())
    logger.info("largest difference of logits: %.2e", difference)
    if not difference <= MOST:
        raise AtlasError(f"{folder}: its logits differ from base plus adapter by {difference:.1e}, more than {MOST:g}")
    check_content(folder.absolute(), merged.config.model_type, model_args(merged)["parameters"], "merged")
    keys = ["iter", "best_val_loss", "last_iter", "last_val_loss", "val_loss_before"]
    keys += ["tokens", "text", "context", "base"]
    reached = {"training_type": "merged", **{key: tuning[key] for key in keys}, "adapter": tuning["name"]}
    training = read_json(adapter / "config.json")["training"]
    reached["merge_difference"] = difference
    states = {"ckpt": whole_state(merged)}
    with atomic(folder) as partial:
        partial.mkdir()
        write_model(partial, name, merged.cpu(), load_tokenizer(base_model), states, training, reached)


@torch.no_grad()
def _logits(model, tokens: torch.Tensor) -> torch.Tensor:
    """In float64, so that a difference is one of the weights. The model is float32 before and after."""
    logits = model.double()(tokens, use_cache=False).logits
    model.float()
    return logits
