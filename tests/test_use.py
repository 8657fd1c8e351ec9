"""One line of Python each: read a model's activations, run it through an SAE, steer a latent."""

import subprocess
import sys

import pytest
import torch
from random_saes import random_checkpoint, sae_of_model
from site_models import OTHERS, other

import sae_atlas
from models import random_model
from sae_atlas.io.errors import AtlasError
from sae_atlas.saes import checkpoint as checkpoints
from sae_atlas.saes.sae import Sae

TOKENS = torch.arange(12).reshape(2, 6)


@pytest.fixture
def sae() -> Sae:
    return sae_of_model()


@pytest.mark.parametrize("family", ["gpt_neox", "gpt2", "llama"])
def test_captured_activations_are_the_blocks_outputs_and_the_pass_goes_on(family):
    model = random_model(family)
    states = model(TOKENS, output_hidden_states=True).hidden_states
    with sae_atlas.capture(model, site="resid_post", layers=[0, 1]) as acts:
        logits = model(TOKENS).logits
    torch.testing.assert_close(acts[0], states[1])
    torch.testing.assert_close(acts[1], states[2])
    torch.testing.assert_close(logits, model(TOKENS).logits)


def test_the_model_reads_the_reconstruction_but_for_the_context_start(sae):
    model = random_model("llama")
    with sae_atlas.capture(model, site="resid_post", layers=[1]) as plain:
        clean = model(TOKENS).logits
    with sae_atlas.patch(model, sae), sae_atlas.capture(model, site="resid_post", layers=[1]) as patched:
        through = model(TOKENS).logits
    torch.testing.assert_close(patched[1][:, 0], plain[1][:, 0])
    torch.testing.assert_close(patched[1][:, 1:], sae(plain[1])[:, 1:])
    assert not torch.allclose(through, clean)
    torch.testing.assert_close(model(TOKENS).logits, clean)  # nothing stays behind


def test_a_scaled_latent_moves_the_stream_along_its_decoder_row(sae):
    model = random_model("llama")
    latent = 7
    with sae_atlas.capture(model, site="resid_post", layers=[1]) as plain:
        model(TOKENS)
    active = sae.encode(plain[1])[..., latent]
    assert (active[:, 1:] > 0).any()
    with sae_atlas.patch(model, sae, scale={latent: 5.0}), sae_atlas.capture(model, "resid_post", [1]) as steered:
        model(TOKENS)
    moved = (steered[1] - sae(plain[1]))[:, 1:]
    torch.testing.assert_close(moved, 4 * active[:, 1:, None] * sae.W_dec[latent])


@pytest.mark.parametrize("prompt", [[9, 5, 6], [9]], ids=str)
@pytest.mark.parametrize("family", ["llama", "mamba"])
def test_generation_with_a_cache_is_that_without_one(family, prompt):
    """From one token on, too, and where the cache is a recurrent state, which counts no positions."""
    model, ids = other(family) if family in OTHERS else random_model(family), torch.tensor([prompt])
    settings = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    with sae_atlas.patch(model, sae_of_model(), clamp={7: 20.0}):
        cached, whole = (model.generate(ids, use_cache=use, **settings) for use in (True, False))
    assert torch.equal(cached, whole)


@pytest.mark.parametrize("parts", [[5, 1], [3, 3], [1, 5], [1, 1, 4]], ids=str)
def test_every_step_of_a_pass_in_parts_is_patched_but_for_the_context_start(sae, parts):
    """Without a mask the cache says where a part goes on; the whole pass is the known answer."""
    model, cache, found = random_model("llama"), None, []
    with sae_atlas.patch(model, sae):
        whole = model(TOKENS).logits
        for tokens in TOKENS.split(parts, dim=1):
            step = model(tokens, past_key_values=cache, use_cache=True)
            cache, found = step.past_key_values, [*found, step.logits]
    torch.testing.assert_close(torch.cat(found, dim=1), whole)


def test_what_cannot_be_patched_is_said(sae):
    model = random_model("llama")
    with (
        pytest.raises(AtlasError, match="no latent 64; the SAE has latents 0 to 63"),
        sae_atlas.patch(model, sae, scale={64: 2.0}),
    ):
        pass
    sae.config["activations"] = {"base_model": {}, "site": None, "layer": None}
    with pytest.raises(AtlasError, match="give site and layer"), sae_atlas.patch(model, sae):
        pass
    with sae_atlas.patch(model, sae, site="mlp_out", layer=0):
        model(TOKENS)


def test_a_checkpoint_loads_in_one_line(tmp_path):
    checkpoints.save(tmp_path / "a.pt", **random_checkpoint("topk"))
    sae = sae_atlas.load_sae(tmp_path / "a.pt")
    assert sae.decode(sae.encode(torch.randn(3, sae.d_in))).shape == (3, sae.d_in)


@pytest.mark.parametrize("name", ["nowhere.json", "", "sae.pt", "text.json", "list.json"])
def test_what_is_no_base_model_of_a_run_is_one_line(tmp_path, name):
    (tmp_path / "sae.pt").write_bytes(b"PK\x03\x04\xff")
    (tmp_path / "text.json").write_text("text")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(AtlasError, match=r"is not what a run says of its base model .*provenance\.json of a run$"):
        sae_atlas.load_model(tmp_path / name)


@pytest.mark.parametrize("target", [None, "mlp_out"], ids=["SAE", "transcoder"])
def test_activations_of_a_model_in_another_precision_are_encoded_in_that_of_the_sae(target):
    sae, x = sae_of_model(target=target), torch.randn(2, 6, 32).to(torch.bfloat16)
    assert torch.equal(sae(x), sae(x.double())) and sae(x).dtype == torch.float64


def test_the_package_itself_is_light():
    program = (
        "import sys, sae_atlas; assert 'torch' not in sys.modules; sae_atlas.load_sae; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


PAD = torch.zeros(1, 4, dtype=torch.long)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("own", [True, False], ids=["the pass has the mask", "the mask is given"])
def test_padding_changes_nothing(sae, side, own):
    """The start of a padded row is where its mask begins, whatever token is there, and is what stays as it is."""
    model, tokens = random_model("llama"), torch.tensor([[9, 5, 6, 7]])
    with sae_atlas.patch(model, sae):
        plain = model(tokens).logits
    parts = ([PAD, tokens], [PAD, PAD + 1]) if side == "left" else ([tokens, PAD], [PAD + 1, PAD])
    padded, mask = (torch.cat(each, dim=1) for each in parts)
    real = mask[0].bool()
    places = (mask.cumsum(dim=1) - 1).clamp_min(0)
    seen = {"attention_mask": mask} if own or side == "left" else {}  # padding at the right is never looked at
    with sae_atlas.patch(model, sae, attention_mask=None if own else mask):
        found = model(padded, **seen, position_ids=places).logits[:, real]
    torch.testing.assert_close(found, plain)
    with sae_atlas.patch(model, sae):
        again = model(tokens).logits
    torch.testing.assert_close(again, plain)  # nothing stays behind of the mask


def test_rows_of_other_lengths_generate_as_each_alone(sae):
    model, rows = random_model("llama"), [[9, 5, 6, 7], [3]]
    settings = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
    padded = torch.tensor([[0] * (4 - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (4 - len(row)) + [1] * len(row) for row in rows])
    for beams in (1, 2):
        with sae_atlas.patch(model, sae):
            together = model.generate(padded, attention_mask=mask, num_beams=beams, **settings)
            for row, found in zip(rows, together, strict=True):
                ids = torch.tensor([row])
                alone = model.generate(ids, attention_mask=torch.ones_like(ids), num_beams=beams, **settings)
                assert found[4:].tolist() == alone[0, len(row) :].tolist()


def test_a_mask_of_another_batch_is_refused(sae):
    model = random_model("llama")
    line = r"attention_mask is \[3, 6\], the pass reads \[2, 6\]"
    with pytest.raises(AtlasError, match=line), sae_atlas.patch(model, sae, attention_mask=torch.ones(3, 6)):
        model(TOKENS)


def test_a_part_of_the_model_called_alone_starts_at_its_first_position(sae):
    model = random_model("llama")
    with sae_atlas.patch(model, sae):
        whole = model(TOKENS, output_hidden_states=True).hidden_states[-1]
        torch.testing.assert_close(model.model(TOKENS).last_hidden_state, whole)
