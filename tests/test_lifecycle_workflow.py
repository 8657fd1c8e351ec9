"""From scratch to a merged model to its atlas, as a user runs it."""

import pytest

import sae_atlas
from sae_atlas.base_models.adapters import read_meta
from sae_atlas.io.files import read_json
from sae_atlas.texts.documents import read_documents
from workflow import LIFE, kinds, planned, small, snakemake

TARGET = "models/sae/README.md"  # the cards; figures and pages are those of any atlas
ATLAS = {"activations.layers": [1], "training.tokens": "2k", "training.snapshots": []}


def merged():
    config = small(base_model=LIFE, **ATLAS)
    del config["recipes"]["l1"]
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lifecycle")
    snakemake(folder, merged(), f"models/pretrained/{LIFE['name']}/export_meta.json")
    snakemake(folder, merged(), TARGET)  # what follows is an atlas as any other
    return folder


def test_a_model_from_scratch_ends_in_an_atlas(finished):
    name = LIFE["name"]
    assert (finished / "models" / "sae" / f"{name}_resid1_exp4_2k_topk" / "model_card.md").is_file()
    provenance = read_json(finished / "results" / "base_model" / "provenance.json")
    assert provenance["source"] == f"merged {name}" and provenance["n_layers"] == 2
    folder = finished / "models" / "pretrained"
    metas = {path.name.rpartition("-")[2]: read_meta(path) for path in folder.iterdir()}
    assert set(metas) == {"pretrain", "lora", "merged"}
    assert metas["merged"]["adapter"] == metas["lora"]["name"] and metas["merged"]["merge_difference"] < 1e-5
    assert {meta["parameters"] for meta in metas.values()} == {34_720}
    assert sae_atlas.load_base_model(folder / metas["lora"]["name"]).config.n_layer == 2
    assert planned(finished, merged(), TARGET) == []


def test_a_topic_keeps_the_order_of_all():
    """So what is held out of the whole text is held out of the topic too."""
    text = {"source": "package", "package": "wikipedia-introductions"}
    every = list(read_documents(text, 0))
    maths = list(read_documents(text | {"topic": "Mathematics"}, 0))
    assert len(maths) == 256 and [document for document in every if document in set(maths)] == maths


def test_only_what_a_change_reaches_is_made_again(finished):
    config = merged()
    config["base_model"] = LIFE | {"lora": LIFE["lora"] | {"rank": 3}}
    jobs = kinds(planned(finished, config))
    assert {"fine-tune", "merge", "train"} <= set(jobs)
    assert not {"pretrain", "tokenizer", "corpus"} & set(jobs)
