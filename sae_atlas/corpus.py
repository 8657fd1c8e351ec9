"""Text to contexts: documents in a seeded random order, packed, cut into contexts, held-out documents split off first.

On disk: a Zarr v3 group with `tokens [contexts, context]` (smallest unsigned integer that holds the vocabulary) and
`mask [contexts, context]` (False for document starts and tokens that the config excludes; there is no padding, what fills
no context is left out). Held-out contexts come first; each part is in a seeded random order, so any contiguous range of
contexts is a random sample. `document [contexts]` is the number of the document at position 1 (numbers count from 0 in
the order read), `topic [documents]` the index of its label in the attribute `topics`, -1 without one (only the embedded
text has labels).
"""

import hashlib
import json
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from sae_atlas.base_models.load import (
    embedding_rows,
    largest_id,
    load_tokenizer,
    special_ids,
    start_token,
    without_embedding,
)
from sae_atlas.io.arrays import Rows
from sae_atlas.io.errors import AtlasError, nearest
from sae_atlas.io.files import atomic
from sae_atlas.io.log import logger, progress
from sae_atlas.io.provenance import current_record
from sae_atlas.texts.documents import Skipped, read_documents, refuse_row
from sae_atlas.texts.encode import encoded, with_tokens

TOKENS_PER_CHUNK = 2**20


@dataclass(frozen=True)
class Corpus:
    """An opened corpus: arrays that read from disk, and the contexts of its windows."""

    tokens: Rows
    mask: Rows
    document: Rows
    topic: Rows
    attributes: dict

    @property
    def context(self) -> int:
        return self.tokens.shape[1]

    @property
    def held_out(self) -> int:
        """Number of leading contexts that are held out."""
        return self.attributes["held_out_contexts"]

    def window(self, start: int, stop: int) -> range:
        """Train contexts of the window: those with `start` <= unmasked train tokens before them < `stop`."""
        before = np.concatenate([[0], np.cumsum(self._counts(self.held_out, None))])
        if stop > before[-1]:
            raise AtlasError(f"corpus: has {before[-1]} train tokens, the window ends at {stop}; lower training.tokens")
        first, last = np.searchsorted(before, [start, stop])
        if first == last:
            raise AtlasError(
                f"corpus: no context of {self.context} tokens begins between train tokens {start} and {stop}; "
                "lower corpus.context, or raise what asks for so few (training.snapshots, features.tokens)"
            )
        return range(self.held_out + int(first), self.held_out + int(last))

    def held_out_rows(self, tokens: int) -> range:
        """The fewest leading held-out contexts with at least this many unmasked tokens."""
        reached = np.cumsum(self._counts(0, self.held_out))
        if tokens > reached[-1]:
            raise AtlasError(f"corpus: has {reached[-1]} held-out tokens, not {tokens}; lower evaluation.tokens")
        return range(int(np.searchsorted(reached, tokens)) + 1)

    def unmasked(self, rows: range) -> int:
        """Tokens of these contexts that count."""
        return int(self._counts(rows.start, rows.stop).sum())

    def documents(self, rows: range) -> np.ndarray:
        """Number of the document at every position of these contexts, [contexts, context]; a start belongs to its document."""
        begins = self.tokens[rows.start : rows.stop] == self.attributes["document_start"]
        begins[:, :2] = False  # position 0 is always a start, and `document` is that of position 1
        return self.document[rows.start : rows.stop][:, None] + begins.cumsum(axis=1)

    def topics(self) -> np.ndarray:
        """Label of every document, [documents] of str or None."""
        return np.array([*self.attributes["topics"], None], object)[self.topic[:]]

    def _counts(self, first: int, last: int | None) -> np.ndarray:
        """Unmasked tokens of these contexts, [contexts], read a chunk at a time."""
        last, size = self.mask.shape[0] if last is None else last, self.mask.chunk_rows
        parts = (self.mask[at : min(at + size, last)].sum(axis=1, dtype=np.int64) for at in range(first, last, size))
        return np.concatenate([np.zeros(0, np.int64), *parts])


def open_corpus(path: str | Path) -> Corpus:
    """Open a corpus. Raises AtlasError if it is not there or not whole."""
    try:
        group = zarr.open_group(path, mode="r")
        arrays = (Rows(Path(path) / name, group[name], "corpus") for name in ("tokens", "mask", "document", "topic"))
        corpus = Corpus(*arrays, dict(group.attrs))
    except (FileNotFoundError, KeyError, ValueError) as error:
        raise AtlasError(f"{path}: no readable corpus; delete it and rerun") from error
    return corpus


def tokenize(
    base_model: str | Path,
    corpus: str | Path,
    text: dict,
    context: int,
    train_tokens: int,
    held_out_tokens: int,
    seed: int,
) -> None:
    """Write the `corpus` of `text` (config section `corpus`: source and its keys), read with the tokenizer of `base_model`.

    Documents are held out whole until `held_out_tokens` unmasked tokens are reached; the rest gives `train_tokens`.
    Documents are joined with the document start; every context begins with one too. Raises AtlasError if the text is
    short, has a row that is no document where `text` does not say to skip it, or a token that the model has no embedding of.
    """
    tokenizer = load_tokenizer(base_model)
    start, missing = start_token(tokenizer), without_embedding(tokenizer, embedding_rows(base_model))
    left_out = _LeftOut(start, excluded_ids(tokenizer, text.get("exclude", [])) - missing.keys())
    bad_rows = Skipped() if text.get("bad_rows") == "skip" else refuse_row
    folder = Path(corpus).parent
    folder.mkdir(parents=True, exist_ok=True)
    rows = read_documents(text, seed, tokenizer, bad_rows, scratch=folder)
    first = list(islice(rows, 1))  # reads all local files, which have a progress bar of their own
    documents = with_tokens(encoded(chain(first, rows), tokenizer, missing), left_out)
    overlap = _Overlap()
    dtype = np.min_scalar_type(max(largest_id(tokenizer), 255))
    contexts, topics, digest = _Contexts(context, dtype), _Topics(), hashlib.sha256()
    packed = (left_out, contexts, topics, digest)
    held_out_count = _pack(overlap.held_out(documents), held_out_tokens, *packed, "corpus.held_out_tokens")
    _refuse_short("corpus.held_out_tokens", held_out_count, held_out_tokens, text, overlap, bad_rows)
    held_out = len(contexts)
    train_count = _pack(overlap.train(documents), train_tokens, *packed, "corpus.tokens")
    _refuse_short("corpus.tokens", train_count, train_tokens, text, overlap, bad_rows)
    rows.close()
    notes = overlap.notes() | ({"skipped_rows": bad_rows.rows} if isinstance(bad_rows, Skipped) else {})
    generator = np.random.default_rng(seed)
    train = len(contexts) - held_out
    order = np.concatenate([generator.permutation(held_out), held_out + generator.permutation(train)])
    names, labels = topics.labels()
    with atomic(corpus) as partial:
        group = zarr.create_group(partial, zarr_format=3)
        shape, size = (len(order), context), min(len(order), contexts.rows_per_block)
        tokens = create_array(group, "tokens", shape, size, dtype)
        mask = create_array(group, "mask", shape, size, np.dtype(bool))
        numbers = np.frombuffer(contexts.documents, np.int64)
        create_array(group, "document", numbers.shape, len(numbers), numbers.dtype)[:] = numbers[order]
        create_array(group, "topic", labels.shape, len(labels), labels.dtype)[:] = labels
        for at in range(0, len(order), size):
            chosen = contexts.take(order[at : at + size])
            tokens[at : at + size] = chosen
            mask[at : at + size] = ~left_out(chosen)
        group.attrs.update(
            {
                "held_out_contexts": held_out,
                "held_out_tokens": held_out_count,
                "train_tokens": train_count,
                "tokenizer": _tokenizer_hash(tokenizer),
                "document_start": int(start),
                "topics": names,
                "text_sha256": digest.hexdigest(),
                "seed": seed,
                "text": text,
                **notes,
                "record": current_record(),
            }
        )


def excluded_ids(tokenizer, exclude: list[str]) -> set[int]:
    """exclude: tokens as they stand in the vocabulary; `special` for all special ones. Raises AtlasError for others."""
    vocabulary, ids = tokenizer.get_vocab(), set()
    for token in exclude:
        if token != "special" and token not in vocabulary:
            raise AtlasError(f"corpus.exclude: the tokenizer has no token {token!r}; {nearest(token, vocabulary)}")
        ids |= {vocabulary[token]} if token != "special" else special_ids(tokenizer)
    return ids


class _LeftOut:
    """Tokens that count neither in training nor in measurement: document starts, and those that the config excludes."""

    def __init__(self, start: int, excluded: set[int]):
        self.start, self.ids = start, np.array(sorted(excluded - {start}))

    def __call__(self, tokens: np.ndarray) -> np.ndarray:
        starts = tokens == self.start
        return starts | np.isin(tokens, self.ids) if len(self.ids) else starts


class _Overlap:
    """Counts documents, and those of the train ones that are identical to a held-out one."""

    def __init__(self):
        self.hashes, self.held_out_documents, self.documents, self.repeated = set(), 0, 0, 0

    def held_out(self, documents: Iterator[tuple[list[int], str | None]]) -> Iterator[tuple[list[int], str | None]]:
        for ids, topic in documents:
            self.held_out_documents += bool(ids)
            self.hashes.add(hash(tuple(ids)))
            yield ids, topic

    def train(self, documents: Iterator[tuple[list[int], str | None]]) -> Iterator[tuple[list[int], str | None]]:
        for ids, topic in documents:
            self.documents += bool(ids)
            self.repeated += bool(ids) and hash(tuple(ids)) in self.hashes
            yield ids, topic

    def notes(self) -> dict:
        """For the corpus' attributes, where there are any; the log says it."""
        if not self.repeated:
            return {}
        logger.warning(
            "%d of %d train documents are held out too, word for word: held-out numbers are partly of text that was trained "
            "on; remove duplicates from the text",
            self.repeated,
            self.documents,
        )
        return {"train_documents_held_out_too": self.repeated}


class _Contexts:
    """Contexts that are appended, [count, context], and the number of the document at position 1 of each.

    They are stored in blocks, so that appending copies nothing: the ids of the text are in memory once.
    """

    def __init__(self, context: int, dtype: np.dtype):
        self.rows_per_block = max(1, TOKENS_PER_CHUNK // context)
        self.shape, self.dtype = (self.rows_per_block, context), dtype
        self.blocks, self.documents = [], array("q")

    def __len__(self) -> int:
        return len(self.documents)

    def append(self, contexts: np.ndarray, documents: np.ndarray) -> None:
        while len(contexts):
            row = len(self) % self.rows_per_block
            if row == 0:
                self.blocks.append(np.empty(self.shape, self.dtype))
            now = min(len(contexts), self.rows_per_block - row)
            self.blocks[-1][row : row + now] = contexts[:now]
            self.documents.frombytes(documents[:now].astype(np.int64).tobytes())
            contexts, documents = contexts[now:], documents[now:]

    def take(self, rows: np.ndarray) -> np.ndarray:
        """These contexts, [rows, context]."""
        locations = zip(*np.divmod(rows, self.rows_per_block), strict=True)
        return np.stack([self.blocks[block][row] for block, row in locations])


class _Topics:
    """The label of every document, 4 bytes each: its index among the labels in the order of their first use."""

    def __init__(self):
        self.index_of, self.of_documents = {None: -1}, array("i")

    def __len__(self) -> int:
        """Documents that have one, be it None."""
        return len(self.of_documents)

    def append(self, topic: str | None, documents: int) -> None:
        index = self.index_of.setdefault(topic, len(self.index_of) - 1)
        self.of_documents.extend([index] * documents)

    def labels(self) -> tuple[list[str], np.ndarray]:
        """(names in alphabetical order, [documents] index of each document's label among them, -1 without one)."""
        first_use = [topic for topic in self.index_of if topic is not None]
        names = sorted(first_use)
        sorted_index = np.array([*map(names.index, first_use), -1], np.int32)  # the last is that of -1
        return names, sorted_index[np.frombuffer(self.of_documents, np.int32)]


def _pack(documents, wanted: int, left_out: _LeftOut, contexts: _Contexts, topics: _Topics, digest, name: str) -> int:
    """Append contexts with at least `wanted` unmasked tokens; returns how many they have, fewer where the text ends before.

    The document that reaches `wanted` is cut there and its rest is dropped, so no document is on both sides of the split.
    Its label and those before it are appended to `topics`; one that holds the start token itself counts as several.
    """
    waiting, length, collected, start = [], 0, 0, left_out.start
    current = len(topics)  # document of the first token that waits
    context = contexts.shape[1]
    body = context - 1  # position 0 of every context is the document start
    with progress(wanted, "tokens", name) as bar:
        for document, topic in documents:
            if not document:
                continue
            ids = np.asarray(document, np.int64)
            digest.update(ids.tobytes())
            if not waiting:
                current = len(topics) + int(ids[0] == start)
            topics.append(topic, 1 + int((ids == start).sum()))
            pieces = [[start], ids] if waiting else [ids]
            waiting += pieces
            length += sum(map(len, pieces))
            if length < body:
                continue
            stream = np.concatenate(waiting)
            begins = stream == start
            begins[0] = False  # it begins document `current`
            number = current + begins.cumsum()
            count = len(stream) // body
            piece = np.full((count, context), start, contexts.dtype)
            piece[:, 1:] = stream[: count * body].reshape(count, body)
            length -= count * body
            waiting = [stream[count * body :]] if length else []
            current = int(number[count * body]) if waiting else len(topics)
            reached = np.cumsum((~left_out(piece)).sum(axis=1))
            last = min(int(np.searchsorted(reached, wanted - collected)), count - 1)
            contexts.append(piece[: last + 1], number[: count * body : body][: last + 1])
            bar.update(int(reached[last]))
            collected += int(reached[last])
            if collected >= wanted:
                return collected
    return collected


def _refuse_short(name: str, collected: int, wanted: int, text: dict, overlap: _Overlap, bad_rows: Callable) -> None:
    """Raise AtlasError if the text has ended before `wanted` tokens; it says of how many documents and rows."""
    if collected >= wanted:
        return
    documents = overlap.held_out_documents + overlap.documents
    facts, remedy = [f"{documents:,} document{'s' * (documents != 1)} read"], "lower it or give more text"
    if name == "corpus.tokens":
        facts.append(f"{overlap.held_out_documents:,} of them held out")
        separated = ", its documents separated by blank lines (`.txt`) or rows" if text["source"] == "local" else ""
        remedy += f"{separated}; documents are held out whole"
    if text.get("exclude"):
        facts.append("tokens of corpus.exclude not counted")
    if isinstance(bad_rows, Skipped) and bad_rows.rows:
        facts.append(f"{bad_rows.rows:,} rows skipped")
    raise AtlasError(f"{name}: the text yields {collected} tokens, not {wanted} ({', '.join(facts)}); {remedy}")


def create_array(group: zarr.Group, name: str, shape: tuple, rows: int, dtype: np.dtype) -> zarr.Array:
    """An array of a corpus, with `rows` rows per checksummed chunk."""
    return group.create_array(
        name,
        shape=shape,
        chunks=(rows, *shape[1:]),
        dtype=dtype,
        compressors=[ZstdCodec(level=3), Crc32cCodec()],
        config={"write_empty_chunks": True},  # so that a missing chunk is always damage
    )


def _tokenizer_hash(tokenizer) -> str:
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]))
    return hashlib.sha256(vocabulary.encode()).hexdigest()[:16]
