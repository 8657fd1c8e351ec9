"""Restoration checkpoints with random weights, in the format of the original's `.pt`."""

from pathlib import Path

import torch

CONFIG = {
    "vocab_size": 130,
    "max_position": 24,
    "d_model": 32,
    "n_heads": 4,
    "d_ff": 64,
    "n_layers": 3,
    "dropout": 0.1,
    "rotary_base": 10000,
}


def random_state(config: dict, bias: bool = True) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    d, wide, vocabulary = config["d_model"], config["d_ff"], config["vocab_size"]
    shapes = {"embed.weight": (vocabulary, d), "final_ln.weight": (d,), "final_ln.bias": (d,)}
    shapes |= {"head.weight": (vocabulary, d), "head.bias": (vocabulary,)}
    for layer in range(config["n_layers"]):
        block = {f"{norm}.{name}": (d,) for norm in ("ln1", "ln2") for name in ("weight", "bias")}
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            block |= {f"attn.{name}.weight": (d, d)} | ({f"attn.{name}.bias": (d,)} if bias else {})
        block |= {"ff.0.weight": (wide, d), "ff.0.bias": (wide,), "ff.2.weight": (d, wide), "ff.2.bias": (d,)}
        shapes |= {f"layers.{layer}.{name}": shape for name, shape in block.items()}
    return {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}


def write_checkpoint(file: Path, bias: bool = True, **changes) -> Path:
    config = CONFIG | changes
    content = {"model_state_dict": random_state(config, bias), "config": config, "vocab_size": config["vocab_size"]}
    torch.save(content, file)
    return file
