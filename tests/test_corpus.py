"""Contexts: packed, masked, shuffled by seed, held out by whole documents."""

import json
import os
import subprocess
import sys
from itertools import islice, pairwise

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from models import write_tokenizer
from sae_atlas.base_models.byte_tokenizer import byte_tokenizer
from sae_atlas.corpus import open_corpus, tokenize
from sae_atlas.io.errors import AtlasError
from sae_atlas.texts.documents import read_documents

TOKENIZER = byte_tokenizer()
START = TOKENIZER.bos_token_id


@pytest.fixture
def documents(tmp_path):
    """Sixty documents of one letter each, so that a token tells its document."""
    file = tmp_path / "text.jsonl"
    letters = [chr(ord("0") + i) for i in range(60)]
    file.write_text("".join(json.dumps({"text": letter * 50}) + "\n" for letter in letters))
    return {"source": "local", "path": str(file)}


def write(path, text, seed=0, context=16, train=1000, held_out=300):
    tokenize(write_tokenizer(path.parent, TOKENIZER), path, text, context, train, held_out, seed)
    return open_corpus(path)


def test_shape_dtype_and_starts(tmp_path, documents):
    corpus = write(tmp_path / "a.zarr", documents)
    tokens, mask = corpus.tokens[:], corpus.mask[:]
    assert tokens.shape[1] == corpus.context == 16
    assert tokens.dtype == np.uint16  # 257 ids do not fit one byte
    assert (tokens[:, 0] == START).all()
    assert (mask == (tokens != START)).all()
    assert corpus.attributes["train_tokens"] == mask[corpus.held_out :].sum() >= 1000
    assert corpus.attributes["held_out_tokens"] == mask[: corpus.held_out].sum() >= 300


def test_no_document_is_on_both_sides(tmp_path, documents):
    corpus = write(tmp_path / "a.zarr", documents)
    tokens = corpus.tokens[:]
    held_out, train = set(tokens[: corpus.held_out].ravel()), set(tokens[corpus.held_out :].ravel())
    assert held_out & train == {START}


def test_same_seed_same_corpus_other_seed_another(tmp_path, documents):
    first, same, other = (
        write(tmp_path / f"{number}.zarr", documents, seed).tokens[:] for number, seed in enumerate((0, 0, 1))
    )
    assert (first == same).all()
    assert first.shape != other.shape or (first != other).any()


def test_contexts_are_in_random_order(tmp_path, documents):
    """Packed in order, each context would share its letter with the one before; shuffled, few do."""
    corpus = write(tmp_path / "a.zarr", documents)
    tokens = corpus.tokens[corpus.held_out :]
    shared = [bool(set(a[1:]) & set(b[1:]) - {START}) for a, b in pairwise(tokens)]
    assert np.mean(shared) < 0.3


def test_windows_lie_end_to_end_and_hold_their_tokens(tmp_path, documents):
    corpus = write(tmp_path / "a.zarr", documents)
    first, second = corpus.window(0, 400), corpus.window(400, 1000)
    assert first.start == corpus.held_out
    assert first.stop == second.start
    counts = corpus.mask[:].sum(axis=1)
    assert 400 <= counts[first.start : first.stop].sum() < 400 + 16
    assert 1000 <= counts[first.start : second.stop].sum() < 1000 + 16


def test_a_window_beyond_the_corpus_is_refused(tmp_path, documents):
    with pytest.raises(AtlasError, match=r"the window ends at 5000; lower training\.tokens"):
        write(tmp_path / "a.zarr", documents).window(0, 5000)


def test_a_window_in_which_no_context_begins_is_refused(tmp_path, documents):
    corpus = write(tmp_path / "a.zarr", documents)
    with pytest.raises(AtlasError, match=r"no context of \d+ tokens begins between .* 1 and 2; lower corpus\.context"):
        corpus.window(1, 2)


def test_held_out_rows_are_the_fewest_that_do(tmp_path, documents):
    corpus = write(tmp_path / "a.zarr", documents)
    counts = corpus.mask[: corpus.held_out].sum(axis=1)
    rows = corpus.held_out_rows(100)
    assert counts[: rows.stop].sum() >= 100 > counts[: rows.stop - 1].sum()


def test_short_text_says_how_much_there_is(tmp_path, documents):
    with pytest.raises(AtlasError, match=r"corpus\.tokens: the text yields \d+ tokens, not 9000"):
        write(tmp_path / "a.zarr", documents, train=9000)
    assert not (tmp_path / "a.zarr").exists()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ({"source": "local", "path": "/nowhere/text.txt"}, "corpus.path: /nowhere/text.txt is not there"),
        ({"source": "package", "package": "wiki"}, "corpus.package: no embedded text 'wiki'"),
    ],
)
def test_a_wrong_source_is_one_line(tmp_path, text, line):
    with pytest.raises(AtlasError, match=line):
        write(tmp_path / "a.zarr", text)


def test_a_wrong_field_names_the_columns(tmp_path, documents):
    with pytest.raises(AtlasError, match=r"corpus\.field: no column 'body'; there is text"):
        write(tmp_path / "a.zarr", documents | {"field": "body"})


def test_a_text_file_is_parted_by_blank_lines(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("\n\n".join(letter * 40 for letter in "abcdefghijklmnopqrst"))
    corpus = write(tmp_path / "a.zarr", {"source": "local", "path": str(file)}, train=300, held_out=100)
    assert corpus.attributes["train_tokens"] >= 300


def test_no_corpus_is_one_line(tmp_path):
    with pytest.raises(AtlasError, match="no readable corpus"):
        open_corpus(tmp_path / "b.zarr")


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("array", ["tokens", "mask", "document", "topic"])
def test_damage_is_one_line(tmp_path, documents, array):
    write(tmp_path / "a.zarr", documents)
    (file,) = (path for path in (tmp_path / "a.zarr" / array / "c").rglob("*") if path.is_file())
    flip(file)
    corpus = open_corpus(tmp_path / "a.zarr")
    with pytest.raises(AtlasError, match=rf"{array}: chunk 0 fails its checksum .*Delete the corpus and rerun"):
        getattr(corpus, array)[:]
    file.unlink()
    with pytest.raises(AtlasError, match=f"{array}: chunk 0 is missing"):
        open_corpus(tmp_path / "a.zarr")


def test_packing_loses_and_moves_no_token(tmp_path):
    """Two long documents: one is held out, the other is train, each cut into bodies of 15 tokens from its beginning."""
    file = tmp_path / "text.jsonl"
    longs = ["".join(chr(first + i % 40) for i in range(15 * 7)) for first in (ord("!"), ord("K"))]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in longs))
    corpus = write(tmp_path / "a.zarr", {"source": "local", "path": str(file)}, train=15 * 7, held_out=15 * 3)
    assert corpus.held_out == 3
    ids = [TOKENIZER(text)["input_ids"] for text in longs]
    bodies = [{tuple(document[i : i + 15]) for i in range(0, count * 15, 15)} for document in ids for count in (3, 7)]
    rows = (
        {tuple(row[1:]) for row in corpus.tokens[: corpus.held_out]},
        {tuple(row[1:]) for row in corpus.tokens[corpus.held_out :]},
    )
    assert rows in [(bodies[0], bodies[3]), (bodies[2], bodies[1])]


def test_every_position_tells_its_document(tmp_path, documents):
    """A document here is one letter, so the number must follow the letter, from 0 in the order read."""
    corpus = write(tmp_path / "a.zarr", documents)
    tokens, numbers = corpus.tokens[:], corpus.documents(range(len(corpus.tokens[:])))
    letter_of = {number: set(tokens[(numbers == number) & corpus.mask[:]]) for number in np.unique(numbers)}
    assert all(len(letters) <= 1 for letters in letter_of.values())
    assert len(set.union(*letter_of.values())) == sum(map(len, letter_of.values()))  # one number per letter
    order = [text for text, _ in read_documents(documents, 0)]
    assert all(TOKENIZER(order[number])["input_ids"][0] in letters for number, letters in letter_of.items() if letters)
    held_out = corpus.documents(range(corpus.held_out))
    assert held_out.max() < corpus.documents(range(corpus.held_out, len(tokens))).min()
    assert set(corpus.topics()) == {None}


def test_a_start_inside_a_document_parts_it_and_moves_no_other(tmp_path):
    file = tmp_path / "text.jsonl"
    texts = ["<|endoftext|>aaaaaaaaa", "bb<|endoftext|>bbbbbbbbbb", "cccccccccccc", "dddddddddddddddddd"]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts * 4))
    corpus = write(tmp_path / "a.zarr", {"source": "local", "path": str(file)}, train=90, held_out=40)
    tokens, numbers = corpus.tokens[:], corpus.documents(range(len(corpus.tokens[:])))
    for number in np.unique(numbers):
        assert len(set(tokens[numbers == number]) - {START}) <= 1


def test_topics_are_those_of_the_articles(tmp_path):
    text = {"source": "package", "package": "wikipedia-introductions"}
    corpus = write(tmp_path / "a.zarr", text, context=64, train=4000, held_out=1000)
    read = list(islice(read_documents(text, 0), 100))
    numbers, topics = corpus.documents(range(len(corpus.tokens[:]))), corpus.topics()
    tokens, mask = corpus.tokens[:], corpus.mask[:]
    assert len(np.unique(numbers)) > 3
    for number in np.unique(numbers):
        article, topic = read[number]
        assert topics[number] == topic
        rows = (numbers == number) & mask
        for context in np.flatnonzero(rows.any(axis=1)):
            assert TOKENIZER.decode(tokens[context][rows[context]]).strip("\ufffd") in article


def test_a_text_hub_that_cannot_be_reached_is_one_line(tmp_path):
    code = (
        "from sae_atlas.texts.documents import read_documents\n"
        "next(read_documents({'source': 'hub', 'id': 'some/text', 'revision': 'main'}, 0))"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (
        "AtlasError: corpus.id: some/text at main cannot be had from the hub (HF_HUB_OFFLINE is set"
        in ran.stderr.splitlines()[-1]
    )


def test_a_value_that_is_no_text_is_named(tmp_path):
    file = tmp_path / "text.jsonl"
    file.write_text('{"text": null}\n')
    with pytest.raises(AtlasError, match=r"corpus\.field: column 'text' holds None"):
        write(tmp_path / "a.zarr", {"source": "local", "path": str(file)})


def test_a_path_is_a_path_and_no_pattern(tmp_path):
    """Folders whose names are patterns of each other's."""
    for folder, word in (("pick[ab]", "right"), ("picka", "wrong")):
        (tmp_path / folder).mkdir()
        lines = [json.dumps({"text": f"{word} {number}"}) for number in range(30)]
        (tmp_path / folder / "t.jsonl").write_text("\n".join(lines))
    texts = [text for text, _ in read_documents({"source": "local", "path": str(tmp_path / "pick[ab]" / "t.jsonl")}, 0)]
    assert len(texts) == 30 and all(text.startswith("right") for text in texts)


def test_ids_above_the_length_of_the_vocabulary_keep_their_value(tmp_path):
    """A vocabulary with holes: three tokens, the largest id 70,000, which two bytes do not hold."""
    words = Tokenizer(WordLevel({"<s>": 0, "near": 1, "far": 70_000}, unk_token="near"))
    words.pre_tokenizer = Whitespace()
    holed = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>")
    assert len(holed) == 3
    (tmp_path / "text.txt").write_text("\n\n".join(["near far far near"] * 600))
    text = {"source": "local", "path": str(tmp_path / "text.txt")}
    tokenize(write_tokenizer(tmp_path / "model", holed), tmp_path / "a.zarr", text, 16, 1000, 300, 0)
    assert np.unique(open_corpus(tmp_path / "a.zarr").tokens[:]).tolist() == [0, 1, 70_000]


def test_duplicates_across_the_split_are_counted_and_said(tmp_path, caplog):
    file = tmp_path / "text.jsonl"
    texts = [f"{number} " * 30 for number in range(40)]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts * 2))
    read = [text for text, _ in read_documents({"source": "local", "path": str(file)}, 0)]
    corpus = write(tmp_path / "a.zarr", {"source": "local", "path": str(file)}, train=3000, held_out=1000)
    split = int(corpus.documents(range(corpus.held_out)).max()) + 1
    last = int(corpus.documents(range(len(corpus.tokens[:]))).max()) + 1
    repeated = sum(text in read[:split] for text in read[split:last])
    assert corpus.attributes["train_documents_held_out_too"] == repeated > 5
    assert f"{repeated} of {last - split} train documents are held out too" in caplog.text
    write(tmp_path / "b.zarr", {"source": "local", "path": str(file)}, train=100, held_out=100)
    assert "train_documents_held_out_too" not in open_corpus(tmp_path / "b.zarr").attributes


def test_bad_rows_are_skipped_and_counted_where_the_config_says_so(tmp_path, caplog):
    file = tmp_path / "text.jsonl"
    rows = [json.dumps({"text": "abc " * 40})] * 40 + ["{", '{"text": 1}']
    file.write_text("\n".join(rows))
    text = {"source": "local", "path": str(file)}
    with pytest.raises(
        AtlasError, match=r"corpus\.path: no JSON .*row 41\); mend the row, or set corpus\.bad_rows: skip"
    ):
        write(tmp_path / "a.zarr", text)
    assert write(tmp_path / "b.zarr", text | {"bad_rows": "skip"}).attributes["skipped_rows"] == 2
    assert caplog.text.count("skipped: ") == 2


def test_excluded_tokens_are_read_and_masked(tmp_path, documents):
    """They move no document: here a letter that is excluded stays with its document."""
    plain = write(tmp_path / "a.zarr", documents)
    letter = int(plain.tokens[plain.held_out, 5])
    name = TOKENIZER.convert_ids_to_tokens(letter)
    corpus = write(tmp_path / "b.zarr", documents | {"exclude": [name, "special"]}, train=1100)
    tokens, mask = corpus.tokens[:], corpus.mask[:]
    assert (mask == ((tokens != START) & (tokens != letter))).all() and (tokens == letter).any()
    assert mask[corpus.held_out :].sum() == corpus.attributes["train_tokens"] >= 1100
    numbers = corpus.documents(range(len(tokens)))
    assert all(len(set(tokens[numbers == number]) - {START}) <= 1 for number in np.unique(numbers))
    assert plain.mask[:].mean() > mask.mean()
    with pytest.raises(AtlasError, match=r"corpus\.exclude: the tokenizer has no token 'nothing'"):
        write(tmp_path / "c.zarr", documents | {"exclude": ["nothing"]})


def test_a_text_that_is_one_document_says_so(tmp_path):
    """All of it is held out; more text of the same kind would not help."""
    file = tmp_path / "text.txt"
    file.write_text("a line\n" * 2000)
    text = {"source": "local", "path": str(file), "exclude": ["special"]}
    line = (
        r"corpus\.tokens: the text yields 0 tokens, not 1000 \(1 document read, 1 of them held out, tokens of corpus\.exclude "
        r"not counted\); lower it or give more text, its documents separated by blank lines \(`\.txt`\) or rows; documents are "
        "held out whole$"
    )
    with pytest.raises(AtlasError, match=line):
        write(tmp_path / "a.zarr", text)
    file.write_text("a line of text\n \n" * 2000)  # as WikiText's own files are
    assert len(np.unique(write(tmp_path / "b.zarr", text).document[:])) > 10


def test_a_short_text_says_how_many_rows_were_skipped(tmp_path):
    file = tmp_path / "text.jsonl"
    file.write_text('{"text": "abc abc abc abc abc abc"}\n' * 3 + "{\n" * 2)
    text = {"source": "local", "path": str(file), "bad_rows": "skip"}
    with pytest.raises(
        AtlasError, match=r"held_out_tokens: .*, not 300 \(3 documents read, 2 rows skipped\); lower it or"
    ):
        write(tmp_path / "a.zarr", text)


@pytest.mark.parametrize(
    ("document", "line"),
    [
        ("", r"corpus\.field: the first 10,000 documents are empty; name the column that holds the text"),
        ("aaaa", r"corpus\.exclude: leaves no token of the first 10,000 documents; exclude fewer"),
    ],
)
def test_a_text_of_which_no_token_counts_ends_soon(tmp_path, document, line):
    """A stream of the hub would be read for days."""
    file = tmp_path / "text.jsonl"
    file.write_text((json.dumps({"text": document}) + "\n") * 10_050)
    with pytest.raises(AtlasError, match=line):
        write(tmp_path / "a.zarr", {"source": "local", "path": str(file), "exclude": ["a"]})


def test_a_stream_without_the_column_ends_soon_where_bad_rows_are_skipped(tmp_path):
    """The folder of a data set is read as one of the hub is."""
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_text('{"id": 1, "body": "x"}\n' * 30_000)
    text = {"source": "hub", "id": str(tmp_path / "set"), "field": "txt", "bad_rows": "skip"}
    line = (
        r"corpus\.field: no column 'txt'; there is id, body \(.*set\); it is the last of 10,000 rows, and none of them is a "
        r"document; corpus\.field asks for `txt`, this row has `id`, `body`: name the column that holds the text"
    )
    with pytest.raises(AtlasError, match=line):
        write(tmp_path / "a.zarr", text)
