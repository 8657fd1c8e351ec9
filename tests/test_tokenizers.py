"""Tokenizers are taken for what they do: each gives right contexts or is refused in a line."""

import copy
import json

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from models import random_model, write_tokenizer
from sae_atlas.base_models.byte_tokenizer import byte_tokenizer
from sae_atlas.base_models.load import load_tokenizer, start_token
from sae_atlas.base_models.prepare import prepare
from sae_atlas.config.read import complete_config
from sae_atlas.corpus import excluded_ids, open_corpus, tokenize
from sae_atlas.features.logit_lens import token_strings
from sae_atlas.io.errors import AtlasError
from sae_atlas.plan.site_check import check_config
from workflow import LIFE, small

VOCABULARY = {"<s>": 0, "</s>": 1, "a": 2, "b": 3, "ab": 4, "Ġ": 5}
BOTH_ENDS = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])


def backend(vocabulary=VOCABULARY, dropout=None, **parts) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(vocabulary, [("a", "b")], dropout=dropout))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    return tokenizer


def written(folder, tokenizer: Tokenizer, **roles):
    return write_tokenizer(folder, PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles))


def tokens_of(folder, provenance):
    (folder / "t.jsonl").write_text("".join(json.dumps({"text": "abab abab a b"}) + "\n" for _ in range(40)))
    text = {"source": "local", "path": str(folder / "t.jsonl")}
    tokenize(provenance, folder / "a.zarr", text, 9, 100, 50, 0)
    return open_corpus(folder / "a.zarr")


DOCUMENT = [4, 4, 5, 4, 4, 5, 2, 5, 3]


@pytest.mark.parametrize(
    "roles", [{"bos_token": "<s>"}, {"eos_token": "</s>"}, {"bos_token": "<s>", "eos_token": "</s>"}]
)
def test_documents_are_joined_with_the_start_token_else_the_end_token_once(tmp_path, roles):
    """Also by a tokenizer that puts both around every text unless it is told not to."""
    corpus = tokens_of(tmp_path, written(tmp_path, backend(post_processor=BOTH_ENDS), **roles))
    start = 0 if "bos_token" in roles else 1
    stream = np.tile([*DOCUMENT, start], 40)
    expected = {(start, *stream[at : at + 8]) for at in range(0, 8 * 40, 8)}
    assert {tuple(row) for row in corpus.tokens[:]} <= expected
    assert (corpus.mask[:] == (corpus.tokens[:] != start)).all()


def test_truncation_padding_and_dropout_that_a_tokenizer_was_saved_with_change_nothing(tmp_path):
    tokenizer = backend(dropout=0.5)
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=32)
    found = load_tokenizer(written(tmp_path, tokenizer, bos_token="<s>"))
    assert [found("abab abab a b", add_special_tokens=False)["input_ids"] for _ in range(20)] == [DOCUMENT] * 20


def test_without_start_and_end_it_is_refused(tmp_path):
    with pytest.raises(AtlasError, match=r"neither a start nor an end token to join documents with; name one"):
        tokens_of(tmp_path, written(tmp_path, backend()))


class Stubborn(PreTrainedTokenizerFast):
    def __call__(self, *texts, add_special_tokens=True, **others):
        return super().__call__(*texts, add_special_tokens=True, **others)


def test_one_that_adds_tokens_whatever_it_is_told_is_refused():
    tokenizer = Stubborn(tokenizer_object=backend(post_processor=BOTH_ENDS), bos_token="<s>", eos_token="</s>")
    with pytest.raises(
        AtlasError, match=r"its tokenizer puts '<s>', '</s>' into every text, also where it is told to add"
    ):
        start_token(tokenizer)


def test_ids_beyond_holes_have_their_text_and_holes_have_none(tmp_path):
    holed = backend(vocabulary={**VOCABULARY, "c": 9}, decoder=decoders.ByteLevel())
    found = load_tokenizer(written(tmp_path, holed, bos_token="<s>"))
    assert start_token(found) == 0
    assert token_strings(found, 12)[2:] == ["a", "b", "ab", " ", "<6>", "<7>", "<8>", "c", "<10>", "<11>"]


# As Gemma 3 has it: a mark of images, which the model of text alone has no embedding of.
IMAGE = AddedToken("<image_soft_token>", special=True, normalized=False)


def local_model(folder, *added: AddedToken) -> dict:
    """A section of a config: a model of 257 embeddings whose tokenizer has 257 ids and those that are added."""
    random_model("gpt_neox", 257).float().save_pretrained(folder)
    tokenizer = byte_tokenizer()
    for token in added:
        tokenizer.add_tokens([token], special_tokens=token.special)
    tokenizer.save_pretrained(folder)
    return {"name": "m", "source": "local", "path": str(folder)}


def test_a_special_token_without_an_embedding_is_refused_only_where_a_text_has_it(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    caplog.set_level("INFO")
    base_model, provenance = local_model(tmp_path / "model", IMAGE), tmp_path / "made" / "provenance.json"
    exclude = {"corpus.exclude": ["special", "<image_soft_token>"], "activations.layers": [0]}
    check_config(complete_config(small(base_model=base_model, **exclude), "config.yaml"), "config.yaml")
    prepare(provenance, source="local", path=base_model["path"])
    assert "without a row of the embedding, which no text may have: `<image_soft_token>`" in caplog.text
    file = tmp_path / "t.jsonl"
    text = {"source": "local", "path": str(file), "exclude": exclude["corpus.exclude"]}
    words = [json.dumps({"text": f"word {number} and a few more words"}) + "\n" for number in range(40)]
    file.write_text("".join(words))
    tokenize(provenance, tmp_path / "a.zarr", text, 9, 400, 50, 0)
    assert open_corpus(tmp_path / "a.zarr").tokens[:].max() < 257
    file.write_text("".join([*words, json.dumps({"text": "An image: <image_soft_token>"}) + "\n"]))
    with pytest.raises(
        AtlasError,
        match=r"^corpus: the document that begins 'An image: <image_soft_token>' holds '<image_soft_token>', which the base "
        r"model has no embedding of; take it out of the text$",
    ):
        tokenize(provenance, tmp_path / "b.zarr", text, 9, 400, 50, 0)


@pytest.mark.parametrize(
    "added", [[AddedToken("word", special=False)], [IMAGE, AddedToken("word", special=False)]], ids=["alone", "beside"]
)
def test_an_ordinary_token_without_an_embedding_is_refused(tmp_path, added):
    base_model = local_model(tmp_path / "model", *added)
    with pytest.raises(AtlasError, match=f"ids up to {256 + len(added)}, its embedding 257 rows"):
        prepare(tmp_path / "made" / "provenance.json", source="local", path=base_model["path"])


def test_a_line_end_is_left_out_as_it_stands_in_the_vocabulary(tmp_path):
    """As Gemma's stands there; where it does not, the error is one line all the same."""
    written(tmp_path, Tokenizer(models.BPE({"<s>": 0, "a": 1, "\n": 2, "\n\t": 3}, [])), bos_token="<s>")
    (tmp_path / "t.jsonl").write_text((json.dumps({"text": "aa\na\naaa\n"}) + "\n") * 40)
    tuned = copy.deepcopy(LIFE)
    tuned["lora"]["corpus"]["exclude"] = ["\n"]
    config = complete_config(
        small(base_model=tuned, **{"corpus.exclude": ["\n"], "activations.layers": [0]}), "config.yaml"
    )
    exclude = config["corpus"]["exclude"]
    assert exclude == config["base_model"]["lora"]["corpus"]["exclude"] == ["\n"]
    text = {"source": "local", "path": str(tmp_path / "t.jsonl"), "exclude": exclude}
    tokenize(tmp_path / "provenance.json", tmp_path / "a.zarr", text, 9, 100, 50, 0)
    corpus = open_corpus(tmp_path / "a.zarr")
    tokens = corpus.tokens[:]
    assert (tokens == 2).any() and (corpus.mask[:] == (tokens == 1)).all()
    with pytest.raises(
        AtlasError, match=r"^corpus\.exclude: the tokenizer has no token '\\n\\t\\t'; did you mean `\\n\\t`\?$"
    ):
        excluded_ids(load_tokenizer(tmp_path / "provenance.json"), ["\n\t\t"])
