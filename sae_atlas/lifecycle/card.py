"""The card of a model that a rule of this workflow made: its architecture, training and losses."""

from pathlib import Path

MADE = {
    "pretrain": "trained from scratch",
    "lora": "a LoRA adapter; it needs its base model",
    "merged": "a base model with a LoRA adapter merged into its weights",
}


def write_card(file: Path, name: str, args: dict, training: dict, reached: dict) -> None:
    """args: of folder.model_args. training: the settings. reached: the results, as in export_meta.json."""
    kind = reached["training_type"]
    base, fit = reached.get("base"), training.get("fit", {})
    lines = [f"# Model Card: {name}", "", f"{MADE[kind][0].upper()}{MADE[kind][1:]}.", "", "## Base Model"]
    if base:
        lines += [f"- Name: {base['name']}", f"- Source: {base['source']}"]
    else:
        lines += ["- Name: none, the weights were drawn at random", f"- Source: seed {training['seed']}"]
    lines += [
        "",
        "## Architecture",
        f"- Family: {args['architecture']}",
        f"- Parameters, counted: {args['parameters']:,}{' without the adapter' if kind == 'lora' else ''}",
        f"- Layers, heads, width: {args['n_layer']}, {args['n_head']}, {args['n_embd']}",
        f"- Vocabulary, longest context: {args['vocab_size']:,}, {args['block_size']:,}",
    ]
    if "lora" in training:
        lora = training["lora"]
        lines += [f"- LoRA: rank {lora['rank']}, alpha {lora['alpha']}, targets {', '.join(lora['targets'])}"]
    lines += [
        "",
        "## Training",
        f"- Dataset: {reached['text']}",
        f"- Tokens Processed: {reached['tokens']:,}",
        f"- Batch Size: {fit['batch']} contexts, in {fit['accumulation']} passes",
        f"- Context Size: {reached['context']:,}",
        f"- Learning Rate: {fit['learning_rate']:g}, {fit['warmup']} steps of warm-up, then a cosine to a tenth of it",
        f"- Weight decay, clipping: {fit['weight_decay']:g} on matrices, gradient norm {fit['clip']:g}",
        "",
        "## Performance",
        f"- Best validation loss: {reached['best_val_loss']:.4f} nats per token, after {reached['iter']:,} steps",
        f"- Last validation loss: {reached['last_val_loss']:.4f}, after {reached['last_iter']:,} steps",
    ]
    if "val_loss_before" in reached:
        lines += [f"- Of the base model on the same text: {reached['val_loss_before']:.4f}"]
    if "merge_difference" in reached:
        lines += [f"- Largest difference of its logits from base plus adapter: {reached['merge_difference']:.1e}"]
    lines += [
        "",
        "## Files",
        "- `ckpt.pt`: the best weights; `last.pt`: the last ones" if kind != "merged" else "- `ckpt.pt`: the weights",
        "- `export_meta.json`: sha256 of every file; `sae_atlas.load_base_model` checks them",
        "",
        "## Limitations",
        "- Made to be looked into. It has seen no other text than the one above, and nobody has checked what it says.",
        "",
    ]
    file.write_text("\n".join(lines), encoding="utf-8")
