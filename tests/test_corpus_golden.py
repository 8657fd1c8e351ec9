"""A corpus is the same arrays as ever, bit for bit: atlases that exist were made from them."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from models import write_tokenizer
from sae_atlas.base_models.byte_tokenizer import START, byte_tokenizer
from sae_atlas.corpus import open_corpus, tokenize

PACKAGE = {"source": "package", "package": "wikipedia-introductions"}
# (source of the text, size of the vocabulary, context, train tokens, held-out tokens, seed) -> sha256 of the corpus.
GOLDEN = {
    ("jsonl", 257, 16, 20000, 3000, 0): "97fb3fc45b74b3b8e996a4f6d2d97889709dbcaed5de028a555c6749704483ac",
    ("jsonl", 257, 64, 20000, 3000, 1): "9df7dc799529dace35f38620e4e6ac23d7de5b2c948e2dafd039c5a4e830ef92",
    ("txt", 257, 128, 20000, 3000, 0): "00244dc91403da8cdc51136d141dabb99e10a101c182f0d8c884d457dee98d2c",
    ("parquet", 257, 32, 20000, 3000, 2): "50b4a3bf1c9b02bb192d65eb424c444fe22e64145c2ecbe29b14ecba2905757f",
    ("jsonl", 200, 16, 9000, 2000, 0): "79f6c157b021f52f7594bd0a83513a76ac896a4c614db4ba93ac5251d73902f3",
    ("txt", 200, 100, 9000, 2000, 3): "1bcc9ceb9d179654e179f4aef909207692183b89c809c34f71f3d2d0acef66fc",
    ("jsonl", 70000, 16, 9000, 2000, 0): "591a7cb3d139a9afaefb21ec53357252d0fa2c824581c5b1be38780bc4d3fd5b",
    ("parquet", 70000, 256, 9000, 2000, 1): "10d94f8dbff65ef72dc8b4be70ed8bef7cc2fe8383cebc4ab9cb16a08c45e8f5",
    ("hub", 200, 32, 9000, 2000, 0): "d846ce17e0f1adab9ce0179aa911bedfd407b4727dc3d3e42bf614c7d9ea3aea",
    ("hub", 70000, 32, 9000, 2000, 4): "9a436b20e5d1ecde95d112bc0adcaa1da128a391a3e8aefcf02858bf5639aabd",
    ("package", 257, 128, 60000, 9000, 0): "b1e3d11886cf768477aeac812a37b7949b4a9e7fba2fe9840daa5ab09fa77bd9",
    ("package", 257, 8, 20000, 3000, 5): "bb92357ef9a86dfc45a95444423abf98bd85a31ebe88a04f9cb903aba48ef8c9",
    ("topic", 257, 64, 20000, 3000, 0): "cd1138cda1929bf606ec09001d9f3c43ec7db337ddab8a34b55f02c98194179f",
    ("jsonl", 200, 8, 1, 1, 0): "1ea0fdcfcc8c16b5fe3c35965838abb0a50bbaad83d04d2dde1ff3075b5e5403",
    ("package", 257, 1024, 2500000, 300000, 1): "bde1b8659fd0411ff3634549e4e72cd7d07ee273fed4a87068fe43f4b4d30e66",
    ("package", 257, 48, 1500000, 200000, 7): "4f5fe24def446064df48ca4ac54101344d982dca8f5948ed11bd52f090cb6d5f",
}  # fmt: skip


def words_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """`vocabulary` ids: the document start, and the words w1, w2, ... parted by blanks."""
    ids = {START: 0} | {f"w{number}": number for number in range(1, vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="w1"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=START, unk_token="w1")


def texts(vocabulary: int) -> list[str]:
    """900 documents of very different lengths; some are empty, some hold the document start themselves."""
    generator = np.random.default_rng(vocabulary)
    found = []
    for length in [*generator.geometric(1 / 25, 860), *generator.integers(0, 3, 30), *generator.integers(400, 900, 10)]:
        words = [f"w{number}" for number in generator.integers(1, vocabulary, length)]
        if generator.random() < 0.1:
            words.insert(generator.integers(len(words) + 1), START)
        found.append(" ".join(words))
    return [found[place] for place in generator.permutation(len(found))]


def source(name: str, vocabulary: int, folder: Path) -> dict:
    """The config section of a text that is written to the folder. `hub` is a stream, from files as the hub has them."""
    if name == "package":
        return PACKAGE
    if name == "topic":
        return PACKAGE | {"topic": "Geography"}
    documents = texts(vocabulary)
    if name == "txt":
        (folder / "text.txt").write_text("\n\n".join(documents))
    elif name == "parquet":
        rows = {"number": range(len(documents)), "body": documents}
        pyarrow.parquet.write_table(pyarrow.table(rows), folder / "text.parquet", row_group_size=100)
        return {"source": "local", "path": str(folder / "text.parquet"), "field": "body"}
    else:
        (folder / "text.jsonl").write_text("".join(json.dumps({"text": text, "at": 0}) + "\n" for text in documents))
    if name == "hub":
        return {"source": "hub", "id": str(folder)}
    return {"source": "local", "path": str(folder / f"text.{name}")}


def digest(path: Path) -> str:
    """Of every array and of the attributes; without the record, the place of the text and what is counted of it."""
    corpus = open_corpus(path)
    found = hashlib.sha256()
    for name in ("tokens", "mask", "document", "topic"):
        array = getattr(corpus, name)[:]
        found.update(f"{name} {array.dtype.str} {array.shape}".encode() + array.tobytes())
    later = ("record", "text", "train_documents_held_out_too")
    attributes = {key: value for key, value in corpus.attributes.items() if key not in later}
    found.update(json.dumps(attributes, sort_keys=True).encode())
    return found.hexdigest()


@pytest.mark.parametrize("case", GOLDEN, ids=str)
def test_a_corpus_is_the_same_bits_as_ever(case, tmp_path):
    name, vocabulary, context, train, held_out, seed = case
    (tmp_path / "text").mkdir()
    text = source(name, vocabulary, tmp_path / "text")
    tokenizer = byte_tokenizer() if vocabulary == 257 else words_tokenizer(vocabulary)
    tokenize(write_tokenizer(tmp_path, tokenizer), tmp_path / "a.zarr", text, context, train, held_out, seed)
    assert digest(tmp_path / "a.zarr") == GOLDEN[case]
