"""How the folder of a model is written; base_models.adapters reads and checks it.

`model.safetensors` and `config.json` are a transformers folder (the training config is under `training` in config.json);
`ckpt.pt` {model, model_args, config, iter, best_val_loss, is_lora} holds the best weights and `last.pt` the last ones;
`model_args.json` the architecture, `export_meta.json` losses, counts and hashes, `adapters/` a LoRA in peft layout. The
folder of an adapter alone has no `model.safetensors`, and its `.pt` files hold only what was trained.
"""

from pathlib import Path

import torch
from torch import Tensor

from sae_atlas.base_models.adapters import ADAPTER, META
from sae_atlas.base_models.written import add_older_names
from sae_atlas.io.files import read_json, sha256, write_json
from sae_atlas.io.provenance import current_record
from sae_atlas.lifecycle.card import write_card
from sae_atlas.saes.checkpoint import save_tensors


def write_model(
    partial: Path,
    name: str,
    model,
    tokenizer,
    weights: dict[str, dict[str, Tensor]],
    training: dict,
    reached: dict,
) -> None:
    """Fill the folder `partial` that will be called `name`. Adapters, if there are any, lie in it already.

    model: with the best weights, or a peft model to be saved as an adapter. weights: file stem (`ckpt`, `last`) -> state.
    training: the settings, for config.json. reached: iter, best_val_loss, training_type and what else export_meta.json holds.
    """
    lora = reached["training_type"] == "lora"
    args = model_args(model)
    if lora:
        model.save_pretrained(partial / ADAPTER, save_embedding_layers=False)  # else peft asks the hub for the base
        (partial / ADAPTER / "README.md").unlink(missing_ok=True)  # peft's empty form; the card is model_card.md
        model.get_base_model().config.save_pretrained(partial)
    else:
        model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    add_older_names(partial)
    write_json(partial / "config.json", read_json(partial / "config.json") | {"training": training})
    write_json(partial / "model_args.json", args)
    # Read again, so that a checkpoint's bytes do not depend on which of these values were one object in memory.
    args, training = read_json(partial / "model_args.json"), read_json(partial / "config.json")["training"]
    about = {"iter": reached["iter"], "best_val_loss": reached["best_val_loss"], "is_lora": lora}
    for stem, state in weights.items():
        checkpoint = {"model": state, "model_args": args, "config": training, **about}
        if stem == "last":
            checkpoint |= {"iter": reached["last_iter"], "val_loss": reached["last_val_loss"]}
        save_tensors(partial / f"{stem}.pt", checkpoint)
    write_card(partial / "model_card.md", name, args, training, reached)
    sums = {str(file.relative_to(partial)): sha256(file) for file in sorted(partial.rglob("*")) if file.is_file()}
    meta = {
        "name": name,
        **reached,
        "is_lora": lora,
        "parameters": args["parameters"],
        "sha256": sums,
        "record": current_record(),
    }
    write_json(partial / META, meta)


def model_args(model) -> dict:
    """The architecture as plain numbers; parameters are counted, tied weights once, those of an adapter not."""
    inner = model.get_base_model() if hasattr(model, "peft_config") else model
    config = inner.config
    known = inner.named_parameters()
    return {
        "architecture": config.model_type,
        "n_layer": config.num_hidden_layers,
        "n_head": config.num_attention_heads,
        "n_embd": config.hidden_size,
        "vocab_size": config.vocab_size,
        "block_size": config.max_position_embeddings,
        "tie_word_embeddings": bool(config.tie_word_embeddings),
        "parameters": sum(weight.numel() for name, weight in known if ".lora_" not in name),
    }


def whole_state(model) -> dict[str, Tensor]:
    """The model's weights on the CPU; tied ones share their memory."""
    return {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}


def trained_state(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The trained weights of an adapter, under peft's names without the adapter's own name in them."""
    return {name.replace(".default", ""): torch.clone(weight) for name, weight in weights.items()}
