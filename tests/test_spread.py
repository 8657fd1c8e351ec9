"""A base model in parts, some in memory and some on disk, gives what the whole one gives."""

import pytest
import torch

from models import random_model
from sae_atlas.base_models.load import read_model
from sae_atlas.features.logit_lens import logit_lens
from sae_atlas.metrics.held_out import replace_site
from sae_atlas.sites import SITES
from sae_atlas.sites.hooks import blocks, capture, patch

TOKENS = torch.arange(1, 25).reshape(2, 12)
OUTSIDE = {  # of the blocks: what lies before them, in memory; what lies after them, on disk
    "gpt_neox": (["gpt_neox.embed_in", "gpt_neox.rotary_emb"], ["gpt_neox.final_layer_norm", "lm_head"]),
    "gpt2": (["transformer.wte", "transformer.wpe"], ["transformer.ln_f", "lm_head"]),
    "llama": (["model.embed_tokens", "model.rotary_emb"], ["model.norm", "lm_head"]),
}
BLOCKS = {"gpt_neox": "gpt_neox.layers", "gpt2": "transformer.h", "llama": "model.layers"}


@pytest.fixture(scope="module", params=OUTSIDE)
def pair(request, tmp_path_factory):
    """(the whole model, the same with the last two of its three blocks and all that follows on disk)."""
    folder = tmp_path_factory.mktemp(request.param)
    random_model(request.param, tie_word_embeddings=False).save_pretrained(folder)
    before, after = OUTSIDE[request.param]
    places = {name: "cpu" for name in before} | {name: "disk" for name in after}
    places |= {f"{BLOCKS[request.param]}.{layer}": "disk" if layer else "cpu" for layer in range(3)}
    whole, parts = read_model(folder, "float64", "cpu"), read_model(folder, "float64", places)
    assert {tensor.device.type for tensor in blocks(parts)[2].parameters()} == {"meta"}  # not in memory
    return whole, parts


def test_as_accelerate_finds_room_it_is_the_same_model(pair, tmp_path):
    whole, _ = pair
    whole.save_pretrained(tmp_path)
    model = read_model(tmp_path, "float64", "spread")
    assert_same(model(TOKENS).logits.cpu(), whole(TOKENS).logits)


def assert_same(found, expected):
    """The same sums in float64. Not the same bits: a library of products may add up by where in memory a matrix begins."""
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def sites(model) -> list[str]:
    return [site for site in SITES if site != "resid_mid" or model.config.model_type != "gpt_neox"]


def test_every_site_and_the_logits_are_those_of_the_whole_model(pair):
    whole, parts = pair
    for site in sites(whole):
        found = []
        for model in pair:
            with torch.inference_mode(), capture(model, site, [0, 1, 2]) as activations:
                model(TOKENS, use_cache=False)
            found.append(activations)
        for layer in range(3):
            assert_same(found[1][layer], found[0][layer])
    assert_same(parts(TOKENS).logits, whole(TOKENS).logits)


def test_patched_passes_are_those_of_the_whole_model_and_leave_it_as_it_was(pair):
    whole, parts = pair
    before, forwards = whole(TOKENS).logits, [block.forward for block in blocks(parts)]
    with capture(whole, "resid_pre", [1]) as streams:
        whole(TOKENS)
    for site in sites(whole):
        found = []
        for model in pair:
            with torch.inference_mode(), patch(model, site, 2, lambda x: x * 2):
                found.append(model(TOKENS).logits)
            with torch.inference_mode(), replace_site(model, site, 1, streams[1], torch.ones_like(streams[1])):
                found.append(model(TOKENS).logits)
        assert_same(found[2], found[0])
        assert_same(found[3], found[1])
        assert not torch.allclose(found[0], before)
    assert_same(parts(TOKENS).logits, before)
    assert [block.forward for block in blocks(parts)] == forwards  # accelerate's own, which fetch what a block needs


def test_the_logit_lens_is_that_of_the_whole_model(pair):
    directions = torch.randn(5, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found, expected = (logit_lens(model, directions) for model in reversed(pair))
    assert_same(found, expected)
