"""Text to contexts: documents in a seeded random order, packed, cut into contexts, held-out documents split off first.

On disk: a Zarr v3 group with `tokens [contexts, context]` (smallest unsigned integer that holds the vocabulary) and
`mask [contexts, context]` (False for document starts; there is no padding, what fills no context is left out). Held-out
contexts come first; each part is in a seeded random order, so any contiguous range of contexts is a random sample.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from sae_atlas.arrays import Rows
from sae_atlas.errors import AtlasError, reason
from sae_atlas.files import atomic
from sae_atlas.log import DISK_ERRORS, progress
from sae_atlas.provenance import check_record

DOCUMENTS_PER_BATCH = 512
TOKENS_PER_CHUNK = 2**20
SHUFFLE_BUFFER = 10_000  # documents of a stream that are shuffled together


@dataclass(frozen=True)
class Corpus:
    """An opened corpus: arrays that read from disk, and where windows lie."""

    tokens: Rows
    mask: Rows
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
        return range(self.held_out + int(first), self.held_out + int(last))

    def held_out_rows(self, tokens: int) -> range:
        """The fewest leading held-out contexts with at least this many unmasked tokens."""
        reached = np.cumsum(self._counts(0, self.held_out))
        if tokens > reached[-1]:
            raise AtlasError(f"corpus: has {reached[-1]} held-out tokens, not {tokens}; lower evaluation.tokens")
        return range(int(np.searchsorted(reached, tokens)) + 1)

    def _counts(self, first: int, last: int | None) -> np.ndarray:
        return self.mask[first:last].sum(axis=1, dtype=np.int64)


def open_corpus(path: str | Path, expected: str | None = None) -> Corpus:
    """Open a corpus. Raises AtlasError if it is not there, not whole or not the `expected` one."""
    try:
        group = zarr.open_group(path, mode="r")
        tokens, mask = (Rows(Path(path) / name, group[name], "corpus") for name in ("tokens", "mask"))
        corpus = Corpus(tokens, mask, dict(group.attrs))
    except (FileNotFoundError, KeyError, ValueError) as error:
        raise AtlasError(f"{path}: no readable corpus; delete it and rerun") from error
    if expected is not None:
        check_record(path, corpus.attributes.get("record"), expected)
    return corpus


def tokenize(
    output: str | Path,
    tokenizer,
    text: dict,
    context: int,
    train_tokens: int,
    held_out_tokens: int,
    seed: int,
    record: dict,
) -> None:
    """Write the corpus of `text` (config section `corpus`: source and its keys).

    Documents are held out whole until `held_out_tokens` unmasked tokens are reached; the rest gives `train_tokens`.
    Documents are joined with the document start; every context begins with one too. Raises AtlasError if the text is
    short.
    """
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if start is None:
        raise AtlasError("base_model: its tokenizer has neither a start nor an end token to part documents with")
    dtype = np.min_scalar_type(max(len(tokenizer) - 1, 255))
    documents = _encoded(read_documents(text, seed), tokenizer)
    digest = hashlib.sha256()
    held_out = _pack(documents, held_out_tokens, context, start, dtype, digest, "corpus.held_out_tokens")
    train = _pack(documents, train_tokens, context, start, dtype, digest, "corpus.tokens")
    generator = np.random.default_rng(seed)
    order = np.concatenate([generator.permutation(len(held_out)), len(held_out) + generator.permutation(len(train))])
    contexts = np.concatenate([held_out, train])
    counts = (contexts != start).sum(axis=1)
    with atomic(output) as partial:
        group = zarr.create_group(partial, zarr_format=3)
        rows = min(len(order), max(1, TOKENS_PER_CHUNK // context))
        for name, kind in (("tokens", dtype), ("mask", bool)):
            group.create_array(
                name,
                shape=contexts.shape,
                chunks=(rows, context),
                dtype=kind,
                compressors=[ZstdCodec(level=3), Crc32cCodec()],
                config={"write_empty_chunks": True},  # a missing chunk is damage, never zeros
            )
        for first in range(0, len(order), rows):
            chosen = contexts[order[first : first + rows]]
            group["tokens"][first : first + rows] = chosen
            group["mask"][first : first + rows] = chosen != start
        group.attrs.update(
            {
                "held_out_contexts": len(held_out),
                "held_out_tokens": int(counts[: len(held_out)].sum()),
                "train_tokens": int(counts[len(held_out) :].sum()),
                "tokenizer": _tokenizer_hash(tokenizer),
                "document_start": int(start),
                "text_sha256": digest.hexdigest(),
                "seed": seed,
                "text": text,
                "record": record,
            }
        )


def read_documents(text: dict, seed: int) -> Iterator[str]:
    """Documents of a text source in a seeded random order (streams: shuffled within a buffer)."""
    if text["source"] == "package":
        from sae_atlas.base_models.packages import find_text

        articles = json.loads(find_text(text["package"]).path().read_text())
        documents = [article["extract"] for article in articles.values()]
        yield from (documents[i] for i in np.random.default_rng(seed).permutation(len(documents)))
        return
    import datasets

    field = text.get("field", "text")
    try:
        if text["source"] == "hub":
            rows = datasets.load_dataset(
                text["id"],
                text.get("subset"),
                split=text.get("split", "train"),
                revision=text.get("revision"),
                streaming=True,
            ).shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER)
        else:
            rows = _local_rows(datasets, Path(text["path"]).expanduser()).shuffle(seed=seed)
        for row in rows:
            if field not in row:
                raise AtlasError(f"corpus.field: no column {field!r}; there is {', '.join(row)}")
            if not isinstance(row[field], str):
                raise AtlasError(f"corpus.field: column {field!r} holds {row[field]!r}, which is no text")
            yield row[field]
    except Exception as error:  # datasets and the hub's client raise errors of many libraries
        if isinstance(error, AtlasError) or getattr(error, "errno", None) in DISK_ERRORS:
            raise
        key, check = ("id", "id and network") if text["source"] == "hub" else ("path", "the file")
        raise AtlasError(f"corpus.{key}: {text[key]} cannot be read ({reason(error)}); check {check}") from error


def _local_rows(datasets, path: Path):
    if not path.is_file():
        raise AtlasError(f"corpus.path: {path} is not there")
    kinds = {".txt": "text", ".jsonl": "json", ".parquet": "parquet"}
    if path.suffix not in kinds:
        raise AtlasError(f"corpus.path: {path.name} is none of {', '.join(kinds)}")
    options = {"sample_by": "paragraph"} if path.suffix == ".txt" else {}
    return datasets.load_dataset(kinds[path.suffix], data_files=str(path), split="train", **options)


def _encoded(documents: Iterator[str], tokenizer) -> Iterator[list[int]]:
    batch = []
    for document in documents:
        batch.append(document)
        if len(batch) == DOCUMENTS_PER_BATCH:
            yield from tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]
            batch = []
    if batch:
        yield from tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]


def _pack(documents, wanted: int, context: int, start: int, dtype, digest, name: str) -> np.ndarray:
    """Contexts [contexts, context] with at least `wanted` unmasked tokens; the document that reaches it is cut off.

    The rest of that document is dropped, so no document lies on both sides of the split.
    """
    pieces, waiting, found = [], [], 0
    body = context - 1  # position 0 of every context is the document start
    with progress(wanted, "tokens", name) as bar:
        for document in documents:
            if not document:
                continue
            ids = np.asarray(document, np.int64)
            digest.update(ids.tobytes())
            waiting.extend([[start], ids] if waiting else [ids])
            if sum(map(len, waiting)) < body:
                continue
            stream = np.concatenate(waiting)
            count = len(stream) // body
            piece = np.full((count, context), start, dtype)
            piece[:, 1:] = stream[: count * body].reshape(count, body)
            waiting = [stream[count * body :]] if len(stream) > count * body else []
            reached = np.cumsum((piece != start).sum(axis=1))
            last = min(int(np.searchsorted(reached, wanted - found)), count - 1)
            pieces.append(piece[: last + 1])
            bar.update(int(reached[last]))
            found += int(reached[last])
            if found >= wanted:
                return np.concatenate(pieces)
    raise AtlasError(f"{name}: the text yields {found} tokens, not {wanted}; lower it or give more text")


def _tokenizer_hash(tokenizer) -> str:
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]))
    return hashlib.sha256(vocabulary.encode()).hexdigest()[:16]
