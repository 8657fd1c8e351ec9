"""Logit lens: a direction promotes the tokens whose unembedding it points along."""

import pytest
import torch

from models import random_model
from sae_atlas.base_models.byte_tokenizer import byte_tokenizer
from sae_atlas.features.logit_lens import LENS_COLUMNS, extremes, lens_columns, logit_lens, token_strings
from sae_atlas.sites import SITES


@pytest.mark.parametrize("count", [1, 10])
@pytest.mark.parametrize("vocabulary", [7, 64, 1000])
def test_the_largest_are_those_of_a_whole_sort(count, vocabulary):
    logits = torch.randn(20, vocabulary, generator=torch.Generator().manual_seed(0))
    values, places = extremes(logits, count)
    expected = logits.topk(min(count, vocabulary), dim=1)
    torch.testing.assert_close(values, expected.values)
    assert (places == expected.indices).all()


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox", "gpt2"])
def test_a_direction_is_read_as_the_model_reads_its_last_stream(architecture):
    """What the direction changes in the logits of the model's own norm and unembedding, but for the norm's bias."""
    model = random_model(architecture)
    directions = torch.randn(5, 32, dtype=torch.float64)
    norm = {"llama": "model.norm", "gpt_neox": "gpt_neox.final_layer_norm", "gpt2": "transformer.ln_f"}[architecture]
    module, head = model.get_submodule(norm), model.get_output_embeddings()
    expected = head(module(directions)) - head(module(torch.zeros(1, 32, dtype=torch.float64)))
    torch.testing.assert_close(logit_lens(model, directions), expected)
    torch.testing.assert_close(logit_lens(model, 100 * directions), expected, rtol=1e-2, atol=1e-3)


def test_the_norm_s_bias_promotes_nothing():
    model = random_model("gpt_neox")
    before = logit_lens(model, torch.eye(32))
    model.get_submodule("gpt_neox.final_layer_norm").bias += torch.randn(32)
    torch.testing.assert_close(logit_lens(model, torch.eye(32)), before)


def test_columns_name_the_tokens_with_the_highest_and_lowest_logits():
    model, tokenizer = random_model("llama"), byte_tokenizer()
    directions = torch.randn(300, 32, dtype=torch.float64)
    columns = {
        name: column.to_pylist() for name, column in lens_columns(model, tokenizer, directions, "mlp_out").items()
    }
    assert tuple(columns) == LENS_COLUMNS
    logits, strings = logit_lens(model, directions), token_strings(tokenizer, 64)
    for latent in (0, 255, 256, 299):
        order = logits[latent].argsort(descending=True).tolist()
        assert columns["promoted"][latent] == [strings[token] for token in order[:10]]
        assert columns["suppressed"][latent] == [strings[token] for token in order[:-11:-1]]
        assert columns["promoted_logits"][latent] == pytest.approx(logits[latent, order[:10]].tolist(), rel=1e-5)
        assert columns["suppressed_logits"][latent] == pytest.approx(logits[latent, order[:-11:-1]].tolist(), rel=1e-5)


@pytest.mark.parametrize(
    ("site", "size"), [("model.layers.{layer}.mlp.up_proj", 48), ("mlp_in", 32)], ids=["inside a module", "mlp_in"]
)
def test_directions_that_are_not_added_to_the_stream_have_no_lens(site, size):
    """`mlp_in` has the stream's width, but a norm made it: nothing adds it to the stream."""
    columns = lens_columns(random_model("llama"), byte_tokenizer(), torch.eye(size), site)
    assert all(column.to_pylist() == [[]] * size for column in columns.values())


def test_every_other_site_has_a_lens():
    for site in set(SITES) - {"mlp_in"}:
        columns = lens_columns(random_model("llama"), byte_tokenizer(), torch.eye(32), site)
        assert all(len(row) == 10 for column in columns.values() for row in column.to_pylist())


def test_ids_without_a_token_are_named_by_number():
    strings = token_strings(byte_tokenizer(), 260)
    assert strings[1] == "!" and strings[257:] == ["<257>", "<258>", "<259>"]
