"""Every site of every family is the activation its name says, and patching there reaches the output."""

import copy
import json

import pytest
import torch
from site_models import LLAMA, OTHERS, TOKENS, captured, other, plain
from transformers import AutoConfig, AutoModelForCausalLM

from models import SIZES, random_model
from sae_atlas.base_models import gguf_llama
from sae_atlas.base_models.packages import find_model
from sae_atlas.io.errors import AtlasError
from sae_atlas.sites import SITES
from sae_atlas.sites.hooks import blocks, capture, check_site, patch, point_of, start_at
from sae_atlas.sites.measure import measure
from sae_atlas.sites.trace import trial_tokens

FAMILIES = list(SIZES)


def sites_of(architecture):
    names = ["resid_pre", "resid_post", "attn_out", "mlp_in", "mlp_out"]
    return names if architecture == "gpt_neox" else [*names, "resid_mid"]


CASES = [(architecture, site) for architecture in FAMILIES for site in sites_of(architecture)]


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
    *_, second_norm, mlp = (f"{measure(model).path}.{{layer}}.{name}" for name in PARTS[architecture])
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
        name = f"{measure(model).path}.{{layer}}.{norm}"
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
    with pytest.raises(AtlasError, match=r"resid_mid: no module of gpt_neox.layers.0 reads the stream after attention"):
        point_of(random_model("gpt_neox"), "resid_mid", 0)
    model = random_model("gpt_neox", use_parallel_residual=False)
    middle, pre, attention = (captured(model, site)[1] for site in ("resid_mid", "resid_pre", "attn_out"))
    torch.testing.assert_close(middle, pre + attention)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", [*OTHERS, *FAMILIES])
def test_what_a_block_adds_is_what_is_captured(architecture, dtype):
    model = (random_model(architecture) if architecture in FAMILIES else other(architecture)).to(dtype)
    parts = ["resid_pre", "attn_out", "mlp_out"][: 2 if architecture == "mamba" else 3]
    *read, post = (captured(model, site) for site in [*parts, "resid_post"])
    for layer in range(3):
        rounding = 8 * torch.finfo(dtype).eps * max(values[layer].norm() for values in read)
        assert (sum(values[layer] for values in read) - post[layer]).norm() < rounding, layer


@pytest.mark.parametrize("architecture", OTHERS)
def test_a_patch_takes_the_place_of_what_is_added(architecture):
    model = other(architecture)
    before = plain(model)
    for site in measure(model).blocks[1].points:
        with patch(model, site, 1, lambda activation: activation.clone()):
            torch.testing.assert_close(plain(model), before, rtol=1e-4, atol=1e-4 * float(before.abs().max()))
        with patch(model, site, 1, torch.zeros_like):
            assert not torch.allclose(plain(model), before), site
    last = "mlp_out" if "mlp_out" in measure(model).blocks[1].points else "attn_out"
    expected = captured(model, "resid_post", [1])[1] - captured(model, last, [1])[1]
    with patch(model, last, 1, torch.zeros_like):
        left = captured(model, "resid_post", [1])[1]
    assert (left - expected).norm() < 1e-5 * expected.norm()
    for layer in (1, 3):
        residual = captured(model, "resid_post", [layer - 1])[layer - 1]
        with start_at(model, layer, residual):
            assert (plain(model) - before).norm() < 1e-5 * before.norm()


def test_parts_that_no_module_holds_are_read_and_patched_as_differences_of_the_stream():
    """Granite adds the experts and the shared MLP, each times a number: three parts; its attention is a module."""
    model, layer = other("granitemoehybrid"), 1
    factor = model.config.residual_multiplier
    values = {site: captured(model, site, [layer])[layer] for site in SITES}
    own = "model.layers.{layer}."
    attention, normed, experts, shared = (
        captured(model, own + name, [layer])[layer]
        for name in ("self_attn", "post_attention_layernorm", "block_sparse_moe", "shared_mlp")
    )
    close = {"rtol": 1e-5, "atol": 1e-5 * float(values["resid_post"].abs().max())}
    torch.testing.assert_close(values["attn_out"], factor * attention, **close)
    torch.testing.assert_close(values["resid_mid"], values["resid_pre"] + factor * attention, **close)
    torch.testing.assert_close(values["mlp_in"], normed, **close)
    torch.testing.assert_close(values["mlp_out"], factor * (experts + shared), **close)

    def changed(site, value):
        with patch(model, site, layer, lambda _: value):
            return plain(model)

    other_attention = torch.randn_like(attention)
    expected = changed(own + "self_attn", other_attention)
    close = {"rtol": 1e-4, "atol": 1e-4 * float(expected.abs().max())}
    assert not torch.allclose(expected, plain(model), **close)
    torch.testing.assert_close(changed("attn_out", factor * other_attention), expected, **close)
    torch.testing.assert_close(changed("resid_mid", values["resid_pre"] + factor * other_attention), expected, **close)
    with patch(model, own + "block_sparse_moe", layer, torch.zeros_like):
        expected = changed(own + "shared_mlp", shared.new_zeros(shared.shape))
    torch.testing.assert_close(changed("mlp_out", torch.zeros_like(normed)), expected, **close)


def bert_model(is_decoder: bool, **sizes):
    """A norm after every sum: no part of a block is added to the stream as it stands."""
    config = AutoConfig.for_model("bert", **LLAMA | {"vocab_size": 64, "is_decoder": is_decoder} | sizes)
    return AutoModelForCausalLM.from_config(config).eval()


def test_a_site_that_a_block_lacks_is_one_line_with_what_was_measured():
    with pytest.raises(
        AtlasError, match=r"mlp_out: backbone.layers.0 adds one part, backbone.layers.0.mixer, which mixes"
    ):
        check_site(other("mamba"), "mlp_out", [0], {})
    bert = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("bert", **LLAMA | {"vocab_size": 64, "is_decoder": True})
    ).eval()
    with pytest.raises(
        AtlasError, match=r"attn_out: no two outputs of bert.encoder.layer.0 add up to .* resid_pre, resid_post can"
    ):
        check_site(bert, "attn_out", [0], {})
    check_site(bert, "resid_post", [0], {})


def test_a_model_that_sees_what_it_predicts_is_refused():
    bert = bert_model(is_decoder=False)
    with pytest.raises(
        AtlasError, match=r"BertLMHeadModel predicts for a token depends on tokens behind it; .*is_decoder"
    ):
        check_site(bert, "resid_post", [0], {})


@pytest.mark.parametrize("words", [8, 15, 50, 99, 1000])
def test_trial_tokens_differ_as_far_as_the_vocabulary_allows(words):
    model = random_model("llama")
    model.config.vocab_size, model.config.bos_token_id, model.config.eos_token_id = words, 0, 0
    tokens = trial_tokens(model)
    assert len(tokens.unique()) == min(words - 1, tokens.numel())


@pytest.mark.parametrize("words", [8, 50])
def test_also_of_a_small_vocabulary_it_shows_what_a_model_sees(words):
    assert not measure(bert_model(is_decoder=False, vocab_size=words, pad_token_id=0)).causal
    assert measure(bert_model(is_decoder=True, vocab_size=words, pad_token_id=0)).causal


def test_sites_that_moved_since_the_model_was_prepared_are_refused():
    model = random_model("llama")
    sites = json.loads(json.dumps(measure(model).plain()))
    check_site(model, "attn_out", [0], {"sites": sites})
    for layer in sites["layers"]:  # a record from before a site could be found
        del layer["sites"]["mlp_out"], layer["gives"]["mlp_out"]
    check_site(model, "attn_out", [0], {"sites": sites})
    fewer = sites | {"layers": sites["layers"][1:]}
    with pytest.raises(AtlasError, match="not where they were when it was prepared"):
        check_site(model, "attn_out", [0], {"sites": fewer})
    sites["layers"][0]["sites"]["attn_out"] = "model.layers.0.self_attn.o_proj"
    with pytest.raises(AtlasError, match="not where they were when it was prepared"):
        check_site(model, "attn_out", [0], {"sites": sites})


def test_a_captured_value_is_a_copy():
    """Falcon adds to the MLP's output in place."""
    model = other("falcon")
    seen = []
    handle = model.transformer.h[1].mlp.register_forward_hook(lambda _, __, output: seen.append(output.clone()))
    with capture(model, "mlp_out", [1], stop=False) as acts:
        model(torch.arange(1, 9)[None])
    handle.remove()
    assert torch.equal(acts[1], seen[-1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_16_bits_the_sites_are_where_they_are_in_float32_also_in_a_stream_that_hides_what_is_added(dtype):
    """Rounded to bfloat16, what a block adds to values of thousands is mostly rounding."""
    model = random_model("llama").float()
    model.model.embed_tokens.weight[:, 0] = 3000.0
    expected, short = measure(model).plain(), random_model("llama").to(dtype)
    short.load_state_dict(model.state_dict())
    before = {name: weight.clone() for name, weight in short.state_dict().items()}
    assert measure(short).plain() == expected and measure(short).causal
    after = short.state_dict()
    assert all(after[name].dtype == dtype and torch.equal(after[name], before[name]) for name in before)


def test_the_embedded_model_has_every_site_in_every_layer_as_it_is_stored_and_as_it_is_computed():
    stored = gguf_llama.read_model(find_model("smollm2-135m-instruct").path())
    assert stored.dtype == torch.bfloat16
    table = measure(stored).plain()
    assert table == measure(copy.deepcopy(stored).float()).plain()
    assert all(set(layer["sites"]) == set(SITES) for layer in table["layers"])
