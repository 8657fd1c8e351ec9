"""Every site of every family is the activation its name says, and patching there reaches the output."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from models import SIZES, random_model
from sae_atlas.io.errors import AtlasError
from sae_atlas.sites import blocks, capture, check_site, family, module_name, patch, start_at

FAMILIES = list(SIZES)
TOKENS = torch.arange(1, 25).reshape(2, 12)


def sites_of(architecture):
    names = ["resid_pre", "resid_post", "attn_out", "mlp_in", "mlp_out"]
    return names if architecture == "gpt_neox" else [*names, "resid_mid"]


CASES = [(architecture, site) for architecture in FAMILIES for site in sites_of(architecture)]


def captured(model, site, layers=(0, 1, 2)):
    with capture(model, site, list(layers)) as found:
        model(TOKENS)
    return found


def plain(model):
    return model(TOKENS, use_cache=False).logits


PARTS = {  # of a block, in the order they are run: norm, attention, norm, MLP
    "gpt_neox": ("input_layernorm", "attention", "post_attention_layernorm", "mlp"),
    "gpt2": ("ln_1", "attn", "ln_2", "mlp"),
    "llama": ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp"),
}


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("architecture", FAMILIES)
def test_sites_are_what_the_blocks_own_parts_compute(architecture, parallel):
    """From the stream before the block alone, by hand. Only GPT-NeoX can be parallel: its MLP reads that stream too."""
    model = random_model(architecture, **({"use_parallel_residual": parallel} if architecture == "gpt_neox" else {}))
    sequential = architecture != "gpt_neox" or not parallel
    block = blocks(model)[1]
    first_norm, attention, second_norm, mlp = (block.get_submodule(name) for name in PARTS[architecture])
    others = {}  # positions and masks, which the model makes for all blocks
    attention.register_forward_pre_hook(lambda _, __, named: others.update(named), with_kwargs=True)
    found = {site: captured(model, site, [1])[1] for site in sites_of(architecture)}
    pre = found["resid_pre"]
    others.pop("hidden_states", None)
    by_hand = {"resid_pre": pre, "attn_out": attention(first_norm(pre), **others)[0]}
    middle = pre + by_hand["attn_out"]
    by_hand["mlp_in"] = second_norm(middle if sequential else pre)
    by_hand["mlp_out"] = mlp(by_hand["mlp_in"])
    by_hand["resid_post"] = middle + by_hand["mlp_out"]
    if sequential:
        found["resid_mid"] = captured(model, "resid_mid", [1])[1]
        by_hand["resid_mid"] = middle
        assert not torch.allclose(found["resid_mid"], found["mlp_in"])  # the stream, not the norm's output
    assert found.keys() == by_hand.keys()
    for site, expected in by_hand.items():
        torch.testing.assert_close(found[site], expected, msg=lambda text, site=site: f"{site}: {text}")


@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_module_path_is_the_site_of_that_name(architecture):
    model = random_model(architecture)
    *_, second_norm, mlp = (f"{family(model).blocks}.{{layer}}.{name}" for name in PARTS[architecture])
    for path, site in ((second_norm, "mlp_in"), (mlp, "mlp_out")):
        torch.testing.assert_close(captured(model, path), captured(model, site))


@pytest.mark.parametrize("architecture", FAMILIES)
def test_mlp_in_reaches_the_mlp_and_nothing_else(architecture):
    model = random_model(architecture)
    whole = {site: captured(model, site, [1])[1] for site in ("resid_pre", "attn_out")}
    with patch(model, "mlp_in", 1, torch.zeros_like):
        post, mlp = captured(model, "resid_post", [1])[1], captured(model, "mlp_out", [1])[1]
        torch.testing.assert_close(captured(model, "attn_out", [1])[1], whole["attn_out"])
    torch.testing.assert_close(mlp, blocks(model)[1].mlp(torch.zeros_like(mlp)))
    torch.testing.assert_close(post, whole["resid_pre"] + whole["attn_out"] + mlp)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_the_stream_adds_up(architecture):
    model = random_model(architecture)
    pre, post = captured(model, "resid_pre"), captured(model, "resid_post")
    attention, mlp = captured(model, "attn_out"), captured(model, "mlp_out")
    for layer in range(3):
        torch.testing.assert_close(pre[layer] + attention[layer] + mlp[layer], post[layer])
    torch.testing.assert_close(post[0], pre[1])
    if architecture != "gpt_neox":
        middle = captured(model, "resid_mid")
        torch.testing.assert_close(middle[1], pre[1] + attention[1])
        norm = {"llama": "post_attention_layernorm", "gpt2": "ln_2"}[architecture]
        name = f"{family(model).blocks}.{{layer}}.{norm}"
        torch.testing.assert_close(blocks(model)[1].get_submodule(norm)(middle[1]), captured(model, name)[1])


@pytest.mark.parametrize("architecture", FAMILIES)
def test_the_stream_is_what_the_model_itself_reports(architecture):
    model = random_model(architecture)
    hidden = model(TOKENS, output_hidden_states=True).hidden_states
    pre = captured(model, "resid_pre")
    for layer in range(3):
        torch.testing.assert_close(pre[layer], hidden[layer])


@pytest.mark.parametrize(("architecture", "site"), CASES)
def test_patching_what_is_there_changes_nothing(architecture, site):
    model = random_model(architecture)
    with patch(model, site, 1, lambda activation: activation.clone()):
        patched = plain(model)
    torch.testing.assert_close(patched, plain(model))


@pytest.mark.parametrize(("architecture", "site"), CASES)
def test_patching_reaches_the_output_and_ends_with_the_block(architecture, site):
    model = random_model(architecture)
    before = plain(model)
    with patch(model, site, 1, torch.zeros_like):
        assert not torch.allclose(plain(model), before)
    torch.testing.assert_close(plain(model), before)


@pytest.mark.parametrize("architecture", sorted(set(FAMILIES) - {"gpt_neox"}))
def test_resid_mid_reaches_the_stream_and_not_only_the_mlp(architecture):
    """With the stream zeroed after attention, the block's output is the MLP's answer to zero, and nothing else."""
    model = random_model(architecture)
    with patch(model, "resid_mid", 1, torch.zeros_like):
        post, mlp = captured(model, "resid_post", [1])[1], captured(model, "mlp_out", [1])[1]
    torch.testing.assert_close(post, mlp)


@pytest.mark.parametrize("architecture", FAMILIES)
@pytest.mark.parametrize("layer", [0, 1, 3])
def test_starting_later_gives_the_full_passs_logits(architecture, layer):
    model = random_model(architecture)
    whole = plain(model)
    residual = captured(model, "resid_pre")[layer] if layer < 3 else captured(model, "resid_post")[2]
    with start_at(model, layer, residual):
        later = plain(model)
    torch.testing.assert_close(later, whole)
    torch.testing.assert_close(plain(model), whole)


def test_a_pass_stops_after_the_last_layer_needed():
    model = random_model("gpt_neox")
    ran = []
    blocks(model)[2].register_forward_pre_hook(lambda *_: ran.append(2))
    assert set(captured(model, "resid_post", [0, 1])) == {0, 1}
    assert not ran


def test_there_is_no_middle_in_a_parallel_block():
    with pytest.raises(AtlasError, match="resid_mid is not known for gpt_neox"):
        module_name(random_model("gpt_neox"), "resid_mid", 0)
    model = random_model("gpt_neox", use_parallel_residual=False)
    middle, pre, attention = (captured(model, site)[1] for site in ("resid_mid", "resid_pre", "attn_out"))
    torch.testing.assert_close(middle, pre + attention)


@pytest.mark.parametrize("architecture", ["gemma2", "gptj"])
def test_no_middle_is_claimed_where_blocks_do_more_than_add(architecture):
    """gemma2 has a norm between attention and the stream, gptj is parallel without saying so in its config."""
    sizes = {"gemma2": SIZES["llama"] | {"head_dim": 16}, "gptj": SIZES["gpt2"] | {"rotary_dim": 4}}[architecture]
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, vocab_size=64, **sizes)).eval()
    with pytest.raises(AtlasError, match="choose resid_pre or resid_post"):
        module_name(model, "resid_mid", 0)
    with start_at(model, 1, captured(model, "resid_pre")[1]):
        later = plain(model)
    torch.testing.assert_close(later, plain(model))


def test_an_unknown_site_names_the_nearest_modules():
    with pytest.raises(AtlasError, match=r"gpt_neox\.layers\.\{layer\}\.mlp"):
        module_name(random_model("gpt_neox"), "gpt_neox.layers.{layer}.mpl", 0)
    with pytest.raises(AtlasError, match="no layer 3"):
        module_name(random_model("gpt2"), "resid_post", 3)


OTHERS = {  # families whose names promise what their modules do not hold, and those that do
    "gemma2": SIZES["llama"] | {"head_dim": 16},
    "olmo2": SIZES["llama"] | {"pad_token_id": 0},
    "granite": SIZES["llama"] | {"residual_multiplier": 0.22, "pad_token_id": 0},
    "falcon": {key: SIZES["llama"][key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads")},
    "qwen2": SIZES["llama"],
}


def other(architecture: str):
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, vocab_size=64, **OTHERS.get(architecture, SIZES["llama"]))
    return AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("site", ["attn_out", "mlp_out"])
@pytest.mark.parametrize("architecture", ["gemma2", "olmo2", "granite", "qwen2", *FAMILIES])
def test_what_a_block_adds_is_measured_before_it_is_read(architecture, site, dtype):
    """A norm or a multiplier behind a module: its output is not what is added, and is not saved as if it were."""
    model = (random_model(architecture) if architecture in FAMILIES else other(architecture)).to(dtype)
    if architecture not in ("gemma2", "olmo2", "granite"):
        check_site(model, site, [0, 2])
        return
    with pytest.raises(
        AtlasError, match=rf"activations.site: {site}: .*of layer 0 miss what the block adds by \d+%.*; choose"
    ):
        check_site(model, site, [0, 2])
    check_site(model, "resid_post", [0, 2])


def test_a_family_without_the_modules_is_refused_in_one_line():
    with pytest.raises(AtlasError, match=r"attn_out is not known for falcon, which has no module transformer.h.0.attn"):
        check_site(other("falcon"), "attn_out", [0])
    with pytest.raises(AtlasError, match=r"mlp_out: falcon has no module transformer.h.0.attn, without which"):
        check_site(other("falcon"), "mlp_out", [0])
    with pytest.raises(AtlasError, match=r"PhiForCausalLM has its blocks at model.layers and no norm at model.norm"):
        check_site(other("phi"), "resid_post", [0])


def test_a_captured_value_is_a_copy():
    """Falcon adds to the MLP's output in place."""
    model = other("falcon")
    seen = []
    handle = model.transformer.h[1].mlp.register_forward_hook(lambda _, __, output: seen.append(output.clone()))
    with capture(model, "mlp_out", [1], stop=False) as acts:
        model(torch.arange(1, 9)[None])
    handle.remove()
    assert torch.equal(acts[1], seen[0])
