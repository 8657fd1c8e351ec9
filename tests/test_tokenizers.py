"""Tokenizers are taken for what they do: each gives right contexts or is refused in a line."""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from models import write_tokenizer
from sae_atlas.base_models.load import load_tokenizer, start_token
from sae_atlas.corpus import open_corpus, tokenize
from sae_atlas.features.logit_lens import token_strings
from sae_atlas.io.errors import AtlasError

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
