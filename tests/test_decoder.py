"""Strings of single tokens join to the text, whatever a decoder does at the beginning of a text."""

import json
from functools import partial

import numpy as np
import pytest
from test_features import features, keep
from texts import one_hot_text, token_sae
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from models import write_tokenizer
from sae_atlas.base_models.byte_tokenizer import byte_tokenizer
from sae_atlas.base_models.code_points import code_point_tokenizer
from sae_atlas.base_models.load import load_tokenizer
from sae_atlas.features.as_json import contexts_as_json, contexts_for_neuronpedia
from sae_atlas.features.decoder import Decoder, inside_text
from sae_atlas.features.for_circuit_tracer import number, write_features
from sae_atlas.features.logit_lens import token_strings
from sae_atlas.features.name_patterns import PatternFrequency, Window
from sae_atlas.features.offline_namer import offline_name
from sae_atlas.features.top_contexts import contexts_of
from sae_atlas.io.tables import write_table
from sae_atlas.tasks.words import ids_inside

TEXT = "The cat sat on the mat"
SPECIAL = ["<s>", "</s>", "<unk>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
PIECES = [
    "▁",
    "▁▁",
    *"abcs",
    ".",
    "▁.",
    "é",
    "tion",
    *(f"▁{word}" for word in (*TEXT.split(), "na", "motion", "lotion", "of")),
]
VOCABULARY = {token: number for number, token in enumerate([*SPECIAL, *BYTES, *PIECES])}


def llama(model=None) -> PreTrainedTokenizerFast:
    """A tokenizer of a few words with the decoder of Llama 2 (transformers/models/llama/tokenization_llama.py)."""
    bpe = models.BPE(VOCABULARY, [], byte_fallback=True, fuse_unk=True, unk_token="<unk>", ignore_merges=True)
    tokenizer = Tokenizer(model or bpe)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(content=" ", left=1)]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def gpt2() -> PreTrainedTokenizerFast:
    """A tokenizer of bytes and a few words with the decoder of GPT-2; `æĿ` is two of three bytes of a letter."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|endoftext|>", *alphabet, "Ġcat", "Ġ.", "ĠĠ", "æĿ", "æĿ±"]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", special=True, normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|endoftext|>")


def ids(*tokens: str) -> np.ndarray:
    return np.array([VOCABULARY[token] for token in tokens])


def sentence() -> np.ndarray:
    return ids(*(f"▁{word}" for word in TEXT.split()))


def test_a_window_of_a_decoder_that_strips_has_its_spaces(tmp_path):
    provenance = write_tokenizer(tmp_path, llama())
    tokenizer, decoder = load_tokenizer(provenance), Decoder.of_model(provenance)
    assert tokenizer(TEXT, add_special_tokens=False)["input_ids"] == sentence().tolist()
    assert "".join(tokenizer.decode([token]) for token in sentence()) == TEXT.replace(
        " ", ""
    )  # what alone would be read
    assert decoder(sentence()) == tuple(f" {word}" for word in TEXT.split())
    assert decoder.decode(sentence().tolist()) == f" {TEXT}"
    assert token_strings(tokenizer, len(VOCABULARY)) == list(decoder(np.arange(len(VOCABULARY))))


def test_special_tokens_bytes_and_spaces_are_what_they_are(tmp_path):
    decoder = Decoder.of_model(write_tokenizer(tmp_path, llama()))
    for token, text in {
        "<s>": "<s>",
        "<unk>": "<unk>",
        "<0x0A>": "\n",
        "<0x61>": "a",
        "<0xE6>": "\ufffd",
        "▁": " ",
        "▁▁": "  ",
        "s": "s",
        "é": "é",
        ".": ".",
        "▁.": " .",
    }.items():
        assert decoder(ids(token)) == (text,), token
    assert decoder.decode(ids("<0xE6>", "<0x9D>", "<0xB1>").tolist()) == "東"


def test_spaces_before_punctuation_are_not_cleaned_up():
    """Which transformers do for every model of a tokenizer but BPE, where its config asks for it."""
    tokenizer = llama(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    tokenizer.clean_up_tokenization_spaces = True
    assert tokenizer.decode(ids("a", "▁.")) == "a."
    assert inside_text(tokenizer)(ids("▁.").tolist()) == " ."


@pytest.mark.parametrize("make", [gpt2, byte_tokenizer, partial(code_point_tokenizer, 300)])
def test_where_a_decoder_keeps_spaces_nothing_changes(tmp_path, make):
    provenance = write_tokenizer(tmp_path, make())
    tokenizer = load_tokenizer(provenance)
    alone = [tokenizer.decode([number]) for number in range(len(tokenizer))]
    assert token_strings(tokenizer, len(tokenizer)) == alone
    assert list(Decoder.of_model(provenance)(np.arange(len(tokenizer)))) == alone


def test_without_a_letter_ids_are_decoded_alone():
    tokenizer = Tokenizer(models.WordLevel({"<s>": 0, "▁near": 1, "▁far": 2}, unk_token="<s>"))
    tokenizer.decoder = decoders.Replace("▁", " ")
    assert [inside_text(tokenizer)([number]) for number in range(3)] == ["<s>", " near", " far"]


def test_names_see_words(tmp_path):
    """The words end alike; their last tokens are not the same, and what stands before and behind them belongs to others."""
    decoder = Decoder.of_model(write_tokenizer(tmp_path, llama()))
    pieces = ["▁na", "tion"], ["▁motion"], ["▁lotion"]
    windows = [Window(decoder(ids("▁the", *each, "▁of", "▁mat")), None, len(each), 1.0) for each in pieces]
    assert windows[0].words == ("the", "nation", "of", "mat")
    assert [each.word for each in windows] == ["nation", "motion", "lotion"]
    assert offline_name(windows, [], PatternFrequency([Window(decoder(sentence()), None)])).name == "“…ion”"


def test_every_export_holds_the_spaces(tmp_path):
    """Of contexts of the latent of ` cat`, in the middle of the sentence."""
    tokens = np.array([[0, *sentence()]])
    text, sae = one_hot_text(tokens, np.ones(tokens.shape), len(VOCABULARY)), token_sae(len(VOCABULARY))
    about = features(text, sae, window=16)
    for name, value in (("promoted", ["a"]), ("suppressed", ["b"])):
        about = about.append_column(name, [[value] * sae.d_sae]).append_column(f"{name}_logits", [[[1.0]] * sae.d_sae])
    tables = tmp_path / "contexts.parquet", tmp_path / "features.parquet"
    write_table(tables[0], contexts_of(text, keep(text, sae, window=16)[0]))
    write_table(tables[1], about)
    provenance, cat = write_tokenizer(tmp_path, llama()), VOCABULARY["▁cat"]
    words = [f" {word}" for word in TEXT.split()]

    contexts_as_json(tables[0], provenance, tmp_path / "plain.json")
    (context,) = json.loads((tmp_path / "plain.json").read_text())[str(cat)]
    assert (context["text"], context["token"]) == (f" {TEXT}", " cat")

    names = {"model": "base", "layer": 0, "recipe": "relu", "dataset": "text", "context": tokens.shape[1]}
    contexts_for_neuronpedia(*tables, provenance, tmp_path / "np.json", **names)
    shown = json.loads((tmp_path / "np.json").read_text())["features"]
    assert [each["activations"][0]["tokens"] for each in shown if each["feature_index"] == cat] == [words]

    write_features(*tables, provenance, tmp_path / "traced", 0)
    traced = json.loads((tmp_path / f"traced/{number(0, cat)}.json").read_text())
    (example,) = traced["examples_quantiles"][0]["examples"]
    assert example["tokens"] == words


def test_parts_of_a_prompt_are_tokens_as_they_stand_inside_it():
    tokenizer = llama()
    assert tokenizer(".", add_special_tokens=False)["input_ids"] == ids("▁.").tolist()
    assert ids_inside(tokenizer, ".") == ids(".").tolist()
    assert ids_inside(tokenizer, " cat sat") == ids("▁cat", "▁sat").tolist()
    assert ids_inside(gpt2(), " cat") == gpt2()(" cat", add_special_tokens=False)["input_ids"]
