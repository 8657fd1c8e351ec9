"""Every family of causal language models that transformers knows, at toy size: which sites it has. `python -m families`

writes docs/families.md; tests/test_families.py holds every row of it against what is measured.
"""

import re
import sys
from pathlib import Path

import torch
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from sae_atlas.io.errors import AtlasError, reason
from sae_atlas.plan.site_check import Unmeasured, random_layers
from sae_atlas.sites import MODULE_INPUT, SITES
from sae_atlas.sites.hooks import capture, module_paths, patch, point_of, start_at
from sae_atlas.sites.measure import measure
from sae_atlas.sites.points import Block
from sae_atlas.sites.trace import forward_pass, trial_tokens

KINDS = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
PAGE = Path(__file__).parents[1] / "docs" / "families.md"
CLOSE = 1e-4  # of a norm, in float32
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}
FEW_EXPERTS = {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
# Where a config class has no sizes of its own, or none that are small.
SIZES = {
    "bailing_hybrid": SMALL | FEW_EXPERTS,
    "codegen": {"n_embd": 64, "n_layer": 4, "n_head": 4, "rotary_dim": 16},
    "deepseek_v2": SMALL | FEW_EXPERTS | {"n_group": 1, "topk_group": 1, "q_lora_rank": 16, "kv_lora_rank": 16},
    "dots1": SMALL
    | FEW_EXPERTS
    | {"first_k_dense_replace": 1, "num_key_value_heads": 4, "n_group": 1, "topk_group": 1},
    "falcon_h1": SMALL
    | {"num_key_value_heads": 2, "mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_chunk_size": 8},
    "gemma3n_text": SMALL | {"num_key_value_heads": 2, "num_kv_shared_layers": 0, "vocab_size_per_layer_input": 512},
    "gemma4_text": SMALL | {"num_key_value_heads": 2, "num_kv_shared_layers": 0, "vocab_size_per_layer_input": 512},
    "granitemoehybrid": SMALL | {"num_key_value_heads": 2, "layer_types": ["attention"] * 4},
    "hunyuan_v1_dense": SMALL | {"head_dim": 16},
    "hunyuan_v1_moe": SMALL | {"head_dim": 16, "num_experts": 4, "moe_topk": 2},
    "lfm2_moe": SMALL | {"layer_types": ["conv", "full_attention"] * 2, "num_key_value_heads": 2},
    "mamba2": {
        "hidden_size": 64,
        "num_hidden_layers": 4,
        "num_heads": 4,
        "head_dim": 32,
        "n_groups": 1,
        "chunk_size": 8,
    },
    "ministral": SMALL | {"head_dim": 16, "num_key_value_heads": 2},
    "plbart": {"d_model": 64, "decoder_layers": 4, "encoder_layers": 2, "is_decoder": True, "is_encoder_decoder": False}
    | {f"{part}_attention_heads": 4 for part in ("encoder", "decoder")}
    | {f"{part}_ffn_dim": 128 for part in ("encoder", "decoder")},
    "reformer": {"is_decoder": True, "hidden_size": 64, "num_attention_heads": 4, "attention_head_size": 16}
    | {
        "feed_forward_size": 128,
        "attn_layers": ["local"] * 4,
        "axial_pos_shape": [8, 8],
        "axial_pos_embds_dim": [32, 32],
    }
    | {"max_position_embeddings": 64, "local_attn_chunk_length": 8},
    "xlstm": {"hidden_size": 64, "embedding_dim": 64, "num_blocks": 4, "num_hidden_layers": 4, "num_heads": 4}
    | {"qk_dim_factor": 0.5, "chunk_size": 8},
    "xmod": SMALL | {"default_language": "en_XX", "is_decoder": True},
    "zamba2": SMALL
    | {"num_key_value_heads": 4, "mamba_d_state": 16, "n_mamba_heads": 4, "mamba_ngroups": 1, "chunk_size": 8}
    | {"num_mem_blocks": 1, "hybrid_layer_ids": [2], "layers_block_type": ["mamba", "mamba", "hybrid", "mamba"]}
    | {"attention_hidden_size": 128, "attention_head_dim": 32},
    "rwkv": {"hidden_size": 64, "attention_hidden_size": 64, "num_hidden_layers": 4},
}


def layers_of(kind: str):
    """A few random layers of a family; raises Unmeasured where none can be made."""
    try:
        config = AutoConfig.for_model(kind, **SIZES.get(kind, {}))
        model = random_layers(config, list(range(config.get_text_config().num_hidden_layers)))
    except Unmeasured:
        raise
    except Exception as error:  # of the config's own class
        raise Unmeasured(reason(error.__cause__ or error)) from error
    try:
        with torch.inference_mode():
            forward_pass(model, trial_tokens(model))
    except Exception as error:  # of the cut sizes
        raise Unmeasured(reason(error)) from error
    return model


def problems(model) -> list[str]:
    """What is wrong with the sites of a model's layers; raises AtlasError where the model is refused."""
    with torch.inference_mode():
        blocks = measure(model).blocks
        return [line for layer, block in enumerate(blocks) for line in of_block(model, layer, block)] + of_modules(
            model
        )


def of_modules(model) -> list[str]:
    """Modules of the first block, and what goes into them: each gives [batch, context, d], or is refused in one line."""
    sites, wrong = measure(model), []
    tokens = trial_tokens(model).repeat(2, 1)[:, :5]  # of other sizes than those it was measured with
    for path in module_paths(model, 0):
        pattern = path.replace(f"{sites.path}.0.", f"{sites.path}.{{layer}}.", 1)
        for site in (pattern, MODULE_INPUT + pattern):
            try:
                point_of(model, site, 0)
            except AtlasError as error:
                wrong += [f"{site} is refused in several lines"] if "\n" in str(error) else []
                continue
            shape = tuple(read(model, site, 0, tokens, stop=True).shape)
            if len(shape) != 3 or shape[:2] != tokens.shape:
                wrong.append(f"{site} gives {shape} for {tuple(tokens.shape)} tokens")
    return wrong


def of_block(model, layer: int, block: Block) -> list[str]:
    tokens, count = trial_tokens(model), len(measure(model).blocks)
    whole, values, wrong = forward_pass(model, tokens).logits, {}, []
    for site in block.points:
        values[site] = read(model, site, layer, tokens, stop=False)
        if not torch.equal(values[site], read(model, site, layer, tokens, stop=True)):
            wrong.append(f"{site} is another where the pass ends early")
        with patch(model, site, layer, lambda activation: activation.clone()):
            if off(forward_pass(model, tokens).logits, whole) > CLOSE:
                wrong.append(f"{site} patched with itself moves the logits")
        with patch(model, site, layer, torch.zeros_like):
            if torch.equal(forward_pass(model, tokens).logits, whole):
                wrong.append(f"{site} patched with zeros moves nothing")
    parts = [values[site] for site in ("attn_out", "mlp_out") if site in values]
    whole_sum = len(parts) == 2 or any("adds one part" in why for why in block.lacks.values())
    if whole_sum and (missed := off(sum(parts, values["resid_pre"]), values["resid_post"])) > CLOSE:
        wrong.append(f"the parts miss resid_post by {missed:.0e}")
    for start, site in ((layer, "resid_pre"), *[(count, "resid_post")] * (layer == count - 1)):
        with start_at(model, start, values[site]):
            if off(forward_pass(model, tokens).logits, whole) > CLOSE:
                wrong.append(f"started at block {start} it gives other logits")
    paths = {name for name, _ in model.named_modules()}
    wrong += [f"{path} is no module" for path in block.gives.values() if path not in paths]
    return [f"layer {layer}: {line}" for line in wrong]


def read(model, site: str, layer: int, tokens, stop: bool):
    with capture(model, site, [layer], stop=stop) as values:
        forward_pass(model, tokens)
    return values[layer]


def off(value, expected) -> float:
    return float((value - expected).norm() / expected.norm())


def row(kind: str) -> str:
    """A family's line of the page."""
    try:
        model = layers_of(kind)
    except Unmeasured as error:
        return _line(kind, "", f"not tried at toy size: {error.args[0]}")
    try:
        with torch.inference_mode():
            sites = measure(model)
    except AtlasError as error:
        return _line(kind, "", f"refused: {error}")
    names = [site for site in SITES if any(site in block.points for block in sites.blocks)]
    spelled = [site if all(site in block.points for block in sites.blocks) else f"({site})" for site in names]
    why = {reason for block in sites.blocks for reason in block.lacks.values()}
    notes = [] if sites.causal else ["refused: its predictions depend on the tokens that they predict"]
    general = {re.sub(rf"{re.escape(sites.path)}\.\d+", f"{sites.path}.{{layer}}", line) for line in why}
    general = {
        re.sub(r" \(the nearest miss it by \d+%\)", "", line) for line in general
    }  # another number in every layer
    return _line(kind, ", ".join(spelled), "; ".join(notes + sorted(general)))


def _line(*cells: str) -> str:
    return f"| {' | '.join(' '.join(cell.split()).replace('|', '/') for cell in cells)} |"


def rows() -> dict[str, str]:
    """Rows of the page by family."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines if line.startswith("| ")}


if __name__ == "__main__":
    logging.set_verbosity_error()
    head, *_ = PAGE.read_text(encoding="utf-8").split("| family |")
    table = ["| family | sites | what it lacks, as measured |", "|---|---|---|"]
    for kind in KINDS:
        print(kind, file=sys.stderr, flush=True)
        table.append(row(kind))
    PAGE.write_text(head + "\n".join(table) + "\n", encoding="utf-8")
