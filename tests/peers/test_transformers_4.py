"""Models that we prepare or train are the same models in transformers 4: logits and ids, not only that they load."""

import json
import os
import subprocess
import sys

import pytest
import torch

from sae_atlas.base_models.load import load, load_tokenizer
from sae_atlas.base_models.prepare import prepare
from sae_atlas.io.files import read_json
from workflow import ROOT

TEXT = "The river 12 héllo"
THEIRS = """
import json, sys, torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer
model, tokenizer = AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval(), AutoTokenizer.from_pretrained(sys.argv[1])
ids = tokenizer(sys.argv[2], add_special_tokens=False).input_ids
with torch.no_grad():
    print(json.dumps([transformers.__version__, str(model.dtype), ids, model(torch.tensor([ids])).logits[0].tolist()]))
"""
SIZES = {
    "llama": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
    "gpt_neox": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2},
}
ROTARY = {
    "llama": {"rope_theta": 77.0},
    "gpt_neox": {"rope_parameters": {"rope_theta": 77.0, "rope_type": "default", "partial_rotary_factor": 0.5}},
}


@pytest.mark.parametrize("kind", SIZES)
def test_a_prepared_model_is_the_same_in_transformers_4(kind, tmp_path):
    sizes = SIZES[kind] | ROTARY.get(kind, {}) | {"initializer_range": 0.3}  # so large that positions matter
    provenance = tmp_path / "provenance.json"
    prepare(provenance, source="random", architecture=kind, sizes=sizes, seed=0, tokenizer="bytes")
    folder = tmp_path / read_json(provenance)["path"]
    model, _ = load(provenance, "float32", "cpu")
    ids = load_tokenizer(provenance)(TEXT, add_special_tokens=False).input_ids
    done = subprocess.run(
        [sys.executable, "-c", THEIRS, str(folder), TEXT],
        env=os.environ | {"PYTHONPATH": str(ROOT / ".transformers4"), "HF_HUB_OFFLINE": "1"},
        capture_output=True, check=True, encoding="utf-8",
    )  # fmt: skip
    version, dtype, their_ids, logits = json.loads(done.stdout.splitlines()[-1])
    assert version.startswith("4.") and dtype == "torch.float32" and their_ids == ids
    torch.testing.assert_close(torch.tensor(logits), model(torch.tensor([ids])).logits[0], rtol=1e-4, atol=1e-4)
