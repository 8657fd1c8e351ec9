"""Contexts for other programs: what is written is what the tables hold."""

import json

import numpy as np
import pytest
from random_saes import D_IN, random_sae
from test_features import features, keep
from texts import random_text

from models import write_tokenizer
from sae_atlas.base_models.byte_tokenizer import byte_tokenizer
from sae_atlas.features.as_json import contexts_as_json, contexts_for_neuronpedia
from sae_atlas.features.top_contexts import contexts_of
from sae_atlas.io.tables import write_table

# What SAEDashboard's class of a feature takes (sae_dashboard/neuronpedia/neuronpedia_dashboard.py).
NEURONPEDIA = [
    "feature_index",
    "neuron_alignment_indices",
    "neuron_alignment_values",
    "neuron_alignment_l1",
    "correlated_neurons_indices",
    "correlated_neurons_l1",
    "correlated_neurons_pearson",
    "correlated_features_indices",
    "correlated_features_l1",
    "correlated_features_pearson",
    "neg_str",
    "neg_values",
    "pos_str",
    "pos_values",
    "frac_nonzero",
    "freq_hist_data_bar_values",
    "freq_hist_data_bar_heights",
    "logits_hist_data_bar_heights",
    "logits_hist_data_bar_values",
    "n_prompts_total",
    "n_tokens_in_prompt",
    "dataset",
    "activations",
    "decoder_weights_dist",
]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Tables of a small random SAE, and a base model that is only a tokenizer."""
    folder = tmp_path_factory.mktemp("json")
    text, sae = random_text(60, 17, D_IN), random_sae("topk")
    sae.W_enc[:, 7], sae.b_enc[7] = 0, -1  # dead
    kept, _ = keep(text, sae, k=4)
    contexts = contexts_of(text, kept)
    about = features(text, sae, k=4)
    for name, value in (("promoted", [["a", "<b>"]]), ("suppressed", [["c"]])):
        about = about.append_column(name, [value * sae.d_sae])
        about = about.append_column(f"{name}_logits", [[[0.12345] * len(value[0])] * sae.d_sae])
    write_table(folder / "contexts.parquet", contexts)
    write_table(folder / "features.parquet", about)
    write_tokenizer(folder, byte_tokenizer())
    return folder, contexts.to_pandas(), about.to_pandas()


def test_a_list_of_contexts_per_alive_latent(written):
    folder, contexts, about = written
    contexts_as_json(folder / "contexts.parquet", folder / "provenance.json", folder / "out.json")
    found = json.loads((folder / "out.json").read_text())
    assert list(found) == [str(latent) for latent in about.latent[about.alive]] and "7" not in found
    tokenizer = byte_tokenizer()
    for latent, rows in contexts[contexts.band == "top"].groupby("latent"):
        for context, row in zip(found[str(latent)], rows.itertuples(), strict=True):
            assert context["score"] == row.activation
            assert context["text"] == tokenizer.decode(row.tokens)
            assert context["token"] == tokenizer.decode([row.tokens[context["token_index"]]])
            assert row.activations[context["token_index"]] == row.activation


def test_neuronpedia_finds_the_fields_it_reads(written):
    folder, contexts, about = written
    names = {"model": "base", "layer": 3, "recipe": "topk", "dataset": "text", "context": 17}
    files = [folder / f"{name}.parquet" for name in ("contexts", "features")]
    contexts_for_neuronpedia(*files, folder / "provenance.json", folder / "np.json", **names)
    batch = json.loads((folder / "np.json").read_text())
    assert {key: batch[key] for key in ("model_id", "layer", "sae_set")} == {
        "model_id": "base",
        "layer": 3,
        "sae_set": "topk",
    }
    assert [each["feature_index"] for each in batch["features"]] == about.latent[about.alive].tolist()
    for each in batch["features"]:
        assert sorted(each) == sorted(NEURONPEDIA)
        row, rows = about.loc[each["feature_index"]], contexts[contexts.latent == each["feature_index"]]
        assert each["frac_nonzero"] == row.density and sum(each["freq_hist_data_bar_heights"]) > 0
        assert each["pos_str"] == ["a", "<b>"] and each["pos_values"] == [0.123, 0.123] and each["neg_str"] == ["c"]
        assert len(each["activations"]) == len(rows)
        for shown, kept in zip(each["activations"], rows.itertuples(), strict=True):
            np.testing.assert_allclose(shown["values"], kept.activations, atol=6e-4)
            assert len(shown["tokens"]) == len(shown["values"])
            assert (shown["bin_min"] == -1) == (kept.band == "top")
            assert shown["bin_max"] >= kept.activation or shown["bin_max"] == pytest.approx(kept.activation)
