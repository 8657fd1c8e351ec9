"""Every family of causal language models that transformers knows: each site is what its name says, or is refused in a line."""

import pyarrow.parquet as pq
import pytest
import torch
from families import KINDS, layers_of, problems, row, rows
from transformers import AutoConfig, AutoModelForCausalLM

from sae_atlas.base_models.byte_tokenizer import byte_tokenizer
from workflow import small, snakemake

# Families whose kinds differ: sequential, parallel, norms behind the modules, flat tokens, one part alone, mixed layers.
FEW = ("gpt2", "phi", "gemma2", "opt", "mamba", "qwen3_5_text", "bloom")
LONG = pytest.mark.long


@pytest.mark.parametrize("kind", [kind if kind in FEW else pytest.param(kind, marks=LONG) for kind in KINDS])
def test_a_family_has_the_sites_that_the_page_says_and_they_are_what_their_names_say(kind):
    assert row(kind) == rows()[kind]
    if "not tried" not in rows()[kind] and "refused: base_model" not in rows()[kind]:
        assert problems(layers_of(kind)) == []


SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
LLAMA = SIZES | {"num_key_value_heads": 1, "intermediate_size": 64, "pad_token_id": None}
MAMBA = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8}
CHAINS = [  # family, its sizes, site
    pytest.param("phi", LLAMA | {"num_key_value_heads": 2}, "resid_post", marks=LONG),
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
    ("qwen3", LLAMA | {"head_dim": 16}, "in:model.layers.{layer}.self_attn.o_proj"),
    pytest.param("falcon_h1", LLAMA | MAMBA, "mlp_out", marks=LONG),
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
    snakemake(tmp_path, settings, "results/metrics.parquet", "models/sae/README.md")
    table = pq.read_table(tmp_path / "results" / "metrics.parquet").to_pandas()
    last = table[table["snapshot"] == "final"].pivot(index="layer", columns="metric", values="value")
    assert list(last.index) == [0, 1, 2]
    assert last["fvu"].between(0, 2).all() and last["l0"].between(3, 5).all() and last["ce_recovered"].notna().all()
