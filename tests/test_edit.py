"""Latents clamped, directions added, several SAEs at once, errors kept, outputs attributed to latents: on known answers."""

from contextlib import ExitStack

import pytest
import torch
from random_saes import sae_of_model
from torch import nn

import sae_atlas
from models import random_model
from sae_atlas.io.errors import AtlasError

TOKENS = torch.arange(12).reshape(2, 6)
LATENT = 7


# An SAE of block 1's output and a transcoder of its MLP, and the sites that they write.
both_kinds = pytest.mark.parametrize(
    ("sae", "written"),
    [(sae_of_model(), "resid_post"), (sae_of_model("mlp_in", 1, "mlp_out"), "mlp_out")],
    ids=["SAE", "transcoder"],
)


def captured(model, site, layer=1, tokens=TOKENS, **patches):
    """A site's activations after the patches of `patch` by its arguments, and the logits."""
    with ExitStack() as stack:
        if patches:
            stack.enter_context(sae_atlas.patch(model, **patches))
        acts = stack.enter_context(sae_atlas.capture(model, site, [layer]))
        logits = model(tokens).logits
    return acts[layer], logits


def read(model, sae, **patches):
    """What the SAE reads at the positions that are patched."""
    place = sae.config["activations"]
    return captured(model, place["site"], place["layer"], **patches)[0][:, 1:]


@both_kinds
def test_a_clamped_latent_has_its_value_at_every_position_but_the_start(sae, written):
    model = random_model("llama")
    x = read(model, sae)
    latents = sae.encode(x)
    assert (latents[..., LATENT] == 0).any() and (latents[..., LATENT] > 0).any()
    latents[..., LATENT] = 3.0
    found, _ = captured(model, written, sae=sae, clamp={LATENT: 3.0})
    torch.testing.assert_close(found[:, 1:], sae.with_skip(sae.decode(latents), x))
    torch.testing.assert_close(found[:, :1], captured(model, written)[0][:, :1])


@both_kinds
def test_clamped_to_the_value_that_it_has_a_latent_changes_nothing(sae, written):
    model, tokens = random_model("llama"), TOKENS[:1, :2]
    latents = sae.encode(read(model, sae, tokens=tokens))[0, 0]
    own = {latent: float(latents[latent]) for latent in (int(latents.argmax()), int(latents.argmin()))}
    assert min(own.values()) == 0 < max(own.values())
    expected, logits = captured(model, written, tokens=tokens, sae=sae)
    found, again = captured(model, written, tokens=tokens, sae=sae, clamp=own)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(again, logits)


@pytest.mark.parametrize("keep_error", [False, True])
@both_kinds
def test_an_added_direction_moves_the_site_by_exactly_that(sae, written, keep_error):
    model = random_model("llama")
    vector = torch.linspace(-1, 1, 32, dtype=torch.float64)
    before, _ = captured(model, written, sae=sae, keep_error=keep_error)
    rows = {LATENT: 2.0, 9: -1.0}
    for add, expected in ((vector, vector), (rows, 2 * sae.W_dec[LATENT] - sae.W_dec[9])):
        after, _ = captured(model, written, sae=sae, keep_error=keep_error, add=add)
        torch.testing.assert_close((after - before)[:, 1:], expected.expand(2, 5, 32))
        assert torch.equal(after[:, 0], before[:, 0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@both_kinds
def test_with_the_error_kept_the_model_is_as_it_was_whatever_the_precision(sae, written, dtype):
    model = random_model("llama").to(dtype)
    plain, clean = captured(model, written)
    through = captured(model, written, sae=sae)[1]
    kept, logits = captured(model, written, sae=sae, keep_error=True)
    assert torch.equal(logits, clean) and not torch.allclose(through, clean)
    assert torch.equal(kept, plain)


@both_kinds
def test_with_the_error_kept_an_edit_changes_what_it_edits_and_nothing_else(sae, written):
    model = random_model("llama")
    plain, _ = captured(model, written)
    active = sae.encode(read(model, sae))[..., LATENT, None]
    edited, _ = captured(model, written, sae=sae, keep_error=True, scale={LATENT: 5.0}, clamp={9: 0.0})
    other = sae.encode(read(model, sae))[..., 9, None]
    assert active.any() and other.any()
    expected = 4 * active * sae.W_dec[LATENT] - other * sae.W_dec[9]
    torch.testing.assert_close((edited - plain)[:, 1:], expected)


def test_several_at_once_equal_the_nested_ones_in_any_order_of_the_list():
    model = random_model("llama")
    saes = [sae_of_model(layer=0), sae_of_model("mlp_in", 1, "mlp_out"), sae_of_model(layer=2)]
    edits = [{"scale": {LATENT: 3.0}}, {"clamp": {9: 1.0}}, {"add": {LATENT: 0.5}}]
    with ExitStack() as stack:
        for sae, edit in zip(saes, edits, strict=True):
            stack.enter_context(sae_atlas.patch(model, sae, **edit))
        nested = model(TOKENS).logits
    for order in ([0, 1, 2], [2, 0, 1]):
        lists = {name: [edits[place].get(name) for place in order] for name in ("scale", "clamp", "add")}
        with sae_atlas.patch(model, [saes[place] for place in order], **lists):
            assert torch.equal(model(TOKENS).logits, nested)
    with sae_atlas.patch(model, saes):
        assert not torch.allclose(model(TOKENS).logits, nested)
    with sae_atlas.patch(model, saes, keep_error=True):
        torch.testing.assert_close(model(TOKENS).logits, captured(model, "resid_post")[1])


def test_sites_of_one_block_read_what_those_before_them_give():
    """In a Llama resid_mid is read as the attention's output plus the block's input; both are changed before it."""
    model = random_model("llama")
    sites = ["resid_post", "resid_mid", "attn_out", "resid_pre"]
    saes = [sae_of_model(site) for site in sites]
    values = {}
    for first in range(4):
        with sae_atlas.patch(model, saes[first + 1 :]):  # all sites before this one in the pass
            reads = captured(model, sites[first])[0]
        with sae_atlas.patch(model, saes):
            values[sites[first]] = captured(model, sites[first])[0]
        if sites[first] != "attn_out":  # what is added once resid_mid is replaced is another value
            torch.testing.assert_close(values[sites[first]][:, 1:], saes[first](reads)[:, 1:])
    torch.testing.assert_close(values["resid_mid"] - values["resid_pre"], values["attn_out"])


def test_what_would_come_too_late_for_another_is_refused():
    model = random_model("llama")
    early, late = sae_of_model("resid_pre"), sae_of_model("resid_mid")
    transcoder, inside = sae_of_model("mlp_in", 1, "mlp_out"), sae_of_model("mlp_in")
    line = "resid_pre of model.layers.1: resid_mid reads it and is captured or patched already; enter"
    with sae_atlas.patch(model, late), pytest.raises(AtlasError, match=line), sae_atlas.patch(model, early):
        pass
    with sae_atlas.capture(model, "resid_mid", [1]), pytest.raises(AtlasError, match=line):
        sae_atlas.patch(model, early).__enter__()
    with sae_atlas.patch(model, transcoder), pytest.raises(AtlasError, match="mlp_in reads it"):
        sae_atlas.patch(model, inside).__enter__()
    with (
        sae_atlas.patch(model, early),
        sae_atlas.patch(model, late),
        sae_atlas.capture(model, "resid_mid", [1]) as acts,
    ):
        model(TOKENS)
    with sae_atlas.patch(model, [late, early]):
        torch.testing.assert_close(captured(model, "resid_mid")[0], acts[1])
    with sae_atlas.patch(model, late), sae_atlas.patch(model, late):  # the second reads what the first gave
        twice = captured(model, "resid_mid")[0]
    with sae_atlas.patch(model, late):
        torch.testing.assert_close(twice[:, 1:], late(captured(model, "resid_mid")[0])[:, 1:])


def linear_read_out():
    """A Llama without the last norm: logits are linear in the last block's output and in what its MLP adds."""
    model = random_model("llama")
    model.model.norm = nn.Identity()
    return model


@pytest.mark.parametrize("target", [None, "mlp_out"], ids=["SAE", "transcoder"])
def test_of_a_linear_read_out_the_attribution_is_the_effect_of_ablation(target):
    model, position = linear_read_out(), 3
    sae = sae_of_model("mlp_in" if target else "resid_post", 2, target)

    def metric(logits):
        return logits[1, position, 5] - 2 * logits[1, position, 6]

    scores = sae_atlas.attribute(model, sae, TOKENS, metric)
    assert scores.shape == (2, 6, 64)
    place = sae.config["activations"]
    latents = sae.encode(captured(model, place["site"], 2)[0])
    weights = model.lm_head.weight[5] - 2 * model.lm_head.weight[6]
    torch.testing.assert_close(scores[1, position], latents[1, position] * (sae.W_dec @ weights))  # by hand
    assert scores[1, position].count_nonzero() == latents[1, position].count_nonzero() > 10
    for latent in latents[1, position].topk(5).indices.tolist():
        whole = metric(model(TOKENS).logits)
        with sae_atlas.patch(model, sae, scale={latent: 0.0}, keep_error=True):
            ablated = metric(model(TOKENS).logits)
        torch.testing.assert_close(scores[1, position, latent], whole - ablated)
    scores[1, position] = 0
    assert not scores.any()  # the last block's output at one position reaches the logits of no other


def test_the_attribution_is_the_derivative_of_the_patched_model_by_the_scale_through_all_layers():
    model = random_model("gpt2")
    saes = [sae_of_model(layer=0), sae_of_model("mlp_in", 1, "mlp_out"), sae_of_model(layer=1)]

    def metric(logits):
        return logits.log_softmax(-1)[:, -1, 3].sum()

    scores = sae_atlas.attribute(model, saes, TOKENS, metric)
    step = 1e-4
    for place, score in enumerate(scores):
        latent = int(score[:, 1:].sum((0, 1)).abs().argmax())
        values = []
        for factor in (1 + step, 1 - step):
            scale = [{latent: factor} if place == each else None for each in range(3)]
            with sae_atlas.patch(model, saes, scale, keep_error=True):
                values.append(metric(model(TOKENS).logits))
        torch.testing.assert_close(score[..., latent].sum(), (values[0] - values[1]) / (2 * step), rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(score, sae_atlas.attribute(model, saes[place], TOKENS, metric))


def test_attributions_leave_out_the_start_and_padding():
    model, sae = random_model("llama"), sae_of_model()
    tokens = torch.tensor([[9, 5, 6, 7]])

    def metric(logits):
        return logits[0, -1, 3]

    plain = sae_atlas.attribute(model, sae, tokens, metric)
    assert not plain[:, 0].any() and plain[:, 1].any()
    assert not sae_atlas.attribute(model, sae, tokens, metric, skip=2)[:, 1].any()
    padded = {
        "input_ids": torch.cat([torch.zeros(1, 2, dtype=torch.long), tokens], 1),
        "attention_mask": torch.tensor([[0, 0, 1, 1, 1, 1]]),
        "position_ids": torch.tensor([[0, 0, 0, 1, 2, 3]]),
    }
    scores = sae_atlas.attribute(model, sae, padded, metric)
    assert not scores[:, :3].any()
    torch.testing.assert_close(scores[:, 2:], plain)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("trained", [False, True], ids=["frozen", "with gradients"])
def test_attributions_need_no_gradients_of_the_model_and_leave_none(mode, trained):
    model, sae = random_model("llama"), sae_of_model()
    expected = sae_atlas.attribute(model, sae, TOKENS, lambda logits: logits[:, -1, 3].sum())
    model.requires_grad_(trained)
    with mode():
        scores = sae_atlas.attribute(model, sae, {"input_ids": TOKENS}, lambda logits: logits[:, -1, 3].sum())
    torch.testing.assert_close(scores, expected)
    assert not scores.requires_grad and all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"clamp": {64: 1.0}}, "clamp: no latent 64; the SAE has latents 0 to 63"),
        ({"add": {-1: 1.0}}, "add: no latent -1; the SAE has latents 0 to 63"),
        ({"scale": {7: 1.0}, "clamp": {7: 1.0}}, "clamp: latent 7 is scaled, too; give one of the two"),
        ({"add": torch.ones(31)}, r"add: a vector of shape \[31\]; the site has 32 dimensions, give \[32\]"),
        ({"sae": [sae_of_model(), sae_of_model()]}, "sae: two SAEs for resid_post of layer 1; give one"),
        ({"sae": [sae_of_model("mlp_out"), sae_of_model("mlp_in", 1, "mlp_out")]}, "two SAEs for mlp_out of layer 1"),
        ({"sae": [sae_of_model()], "clamp": {7: 1.0}}, "clamp: must be a list of 1, one for each SAE of the list"),
        ({"sae": [sae_of_model()], "layer": [0, 1]}, "layer: must be a list of 1"),
        ({"layer": 3}, "no layer 3; LlamaForCausalLM has layers 0 to 2"),
    ],
)
def test_what_cannot_be_edited_is_said(arguments, line):
    with pytest.raises(AtlasError, match=line) as told:
        sae_atlas.patch(random_model("llama"), **{"sae": sae_of_model()} | arguments).__enter__()
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("metric", "what"),
    [
        (lambda logits: logits[:, -1], r"a tensor \[2, 64\]"),
        (lambda logits: logits.sum().item(), "a float"),
        (lambda logits: logits.sum().detach(), r"a tensor \[\]"),
    ],
)
def test_a_metric_that_is_no_number_with_a_gradient_is_refused(metric, what):
    with pytest.raises(AtlasError, match=rf"metric: must give one number.*; it gave {what}"):
        sae_atlas.attribute(random_model("llama"), sae_of_model(), TOKENS, metric)


def test_rows_of_other_lengths_generate_with_a_cache_as_without_one():
    """Every step is edited, in a batch with padding, and the error that is kept is that of the step."""
    model, saes = random_model("llama"), [sae_of_model(layer=0), sae_of_model(layer=2)]
    ids, mask = torch.tensor([[9, 5, 6, 7], [0, 0, 0, 3]]), torch.tensor([[1, 1, 1, 1], [0, 0, 0, 1]])
    settings = {"attention_mask": mask, "max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    edits = {"clamp": [{LATENT: 20.0}, None], "add": [None, {LATENT: 20.0}], "keep_error": True}
    with sae_atlas.patch(model, saes, **edits):
        cached, whole = (model.generate(ids, use_cache=use, **settings) for use in (True, False))
    assert torch.equal(cached, whole)
    assert not torch.equal(cached, model.generate(ids, **settings))
