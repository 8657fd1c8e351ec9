"""Every family of causal language models that transformers knows: each site is what its name says, or is refused in a line."""

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sae_atlas.base_models.byte_tokenizer import byte_tokenizer
from sae_atlas.plan.site_check import random_layers
from sae_atlas.sites.hooks import capture, patch, start_at
from sae_atlas.sites.measure import measure
from sae_atlas.sites.trace import forward_pass, trial_tokens
from workflow import small, snakemake

# Families whose kinds differ: sequential, parallel, norms behind the modules, flat tokens, one part alone, mixed layers.
FEW = ("gpt2", "phi", "gemma2", "opt", "mamba", "qwen3_5_text", "bloom")
CLOSE = 1e-4  # of a norm, in float32


def problems(kind: str) -> list[str]:
    """What is wrong with the sites of a family's random layers; raises AtlasError where the family is refused."""
    config = AutoConfig.for_model(kind)
    model = random_layers(config, list(range(config.get_text_config().num_hidden_layers)))
    if model is None:
        raise LookupError("no few layers of it can be made")
    with torch.inference_mode():
        blocks = measure(model).blocks
        return [line for layer in range(len(blocks)) for line in of_block(model, layer, blocks[layer].points)]


def of_block(model, layer: int, points: dict) -> list[str]:
    tokens, count = trial_tokens(model), len(measure(model).blocks)
    whole, values, wrong = forward_pass(model, tokens).logits, {}, []
    for site in points:
        values[site] = read(model, site, layer, tokens, stop=False)
        if not torch.equal(values[site], read(model, site, layer, tokens, stop=True)):
            wrong.append(f"{site} is another where the pass ends early")
        with patch(model, site, layer, lambda activation: activation.clone()):
            if off(forward_pass(model, tokens).logits, whole) > CLOSE:
                wrong.append(f"{site} patched with itself moves the logits")
        with patch(model, site, layer, torch.zeros_like):
            if torch.equal(forward_pass(model, tokens).logits, whole):
                wrong.append(f"{site} patched with zeros moves nothing")
    parts = [values[site] for site in ("resid_pre", "attn_out", "mlp_out") if site in values]
    if len(parts) > 1 and off(sum(parts), values["resid_post"]) > CLOSE:
        wrong.append(f"the parts miss resid_post by {off(sum(parts), values['resid_post']):.0e}")
    for start, site in ((layer, "resid_pre"), *[(count, "resid_post")] * (layer == count - 1)):
        with start_at(model, start, values[site]):
            if off(forward_pass(model, tokens).logits, whole) > CLOSE:
                wrong.append(f"started at block {start} it gives other logits")
    return [f"layer {layer}: {line}" for line in wrong]


def read(model, site: str, layer: int, tokens, stop: bool):
    with capture(model, site, [layer], stop=stop) as values:
        forward_pass(model, tokens)
    return values[layer]


def off(value, expected) -> float:
    return float((value - expected).norm() / expected.norm())


@pytest.mark.parametrize("kind", FEW)
def test_sites_of_a_family(kind):
    assert problems(kind) == []


SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
LLAMA = SIZES | {"num_key_value_heads": 1, "intermediate_size": 64, "pad_token_id": None}
LONG = pytest.mark.long
CHAINS = [  # family, its sizes, site
    ("phi", LLAMA | {"num_key_value_heads": 2}, "resid_post"),
    ("gemma2", LLAMA | {"head_dim": 16}, "attn_out"),
    pytest.param("falcon", SIZES, "mlp_out", marks=LONG),
    pytest.param("olmo2", LLAMA, "mlp_in", marks=LONG),
    pytest.param("opt", SIZES | {"ffn_dim": 64, "word_embed_proj_dim": 32}, "mlp_out", marks=LONG),
    pytest.param("bloom", {"hidden_size": 32, "n_layer": 3, "n_head": 2}, "resid_mid", marks=LONG),
    pytest.param("mamba", {"hidden_size": 32, "num_hidden_layers": 3, "state_size": 4}, "attn_out", marks=LONG),
    pytest.param(
        "gpt_neo",
        {"hidden_size": 32, "num_layers": 3, "num_heads": 2, "attention_types": [[["global"], 3]]},
        "resid_pre",
        marks=LONG,
    ),
    pytest.param("granite", LLAMA | {"residual_multiplier": 0.22}, "attn_out", marks=LONG),
    pytest.param("qwen3", LLAMA | {"head_dim": 16}, "in:model.layers.{layer}.self_attn.o_proj", marks=LONG),
]


@pytest.mark.parametrize(("kind", "sizes", "site"), CHAINS)
def test_the_chain_on_a_family(kind, sizes, site, tmp_path):
    """A folder in transformers format, from its tokens to metrics and cards."""
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=0, **sizes)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    settings = small()
    settings["base_model"] = {"name": kind, "source": "local", "path": "model"}
    settings["activations"] |= {"site": site, "layers": "all"}
    settings["training"] = {"tokens": "1k", "snapshots": []}
    settings["recipes"] = {"topk": settings["recipes"]["topk"]}
    snakemake(tmp_path, settings, "results/metrics.parquet", "models/sae/README.md", warm=True)
    table = pq.read_table(tmp_path / "results" / "metrics.parquet").to_pandas()
    last = table[table["snapshot"] == "final"].pivot(index="layer", columns="metric", values="value")
    assert list(last.index) == [0, 1, 2]
    assert last["fvu"].between(0, 2).all() and last["l0"].between(3, 5).all() and last["ce_recovered"].notna().all()
