"""The documents of a text in a seeded random order; rows that are no documents are refused or skipped."""

import json
import mmap
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

import numpy as np

from sae_atlas.io.errors import AtlasError, listed, nearest, reason
from sae_atlas.io.hub import hub_text, refuse
from sae_atlas.io.log import DISK_ERRORS, logger, progress
from sae_atlas.texts.chat import chat_format
from sae_atlas.texts.files import other_files, text_files
from sae_atlas.texts.rows import Bad, columns_of, plain_text, read_rows, value_of

SHUFFLE_BUFFER = 10_000  # documents of a stream that are shuffled together
DOCUMENTS_PER_BATCH = 512  # written together
ROWS_IN_MEMORY = 128  # of a local text before their pages are given back: the system reads up to 64 kB with each
LOGGED = 5  # skipped rows whose reason is logged
TRIED = 10_000  # first rows and documents of a text: where none of them is any good, the others are not either


def refuse_row(line: str) -> None:
    raise AtlasError(f"{line}; mend the row, or set corpus.bad_rows: skip")


class Skipped:
    """In place of `refuse_row`: counts rows that are no documents, and logs the first."""

    def __init__(self):
        self.rows = 0

    def __call__(self, line: str) -> None:
        self.rows += 1
        if self.rows <= LOGGED:
            logger.warning("skipped: %s", line)


def read_documents(
    text: dict,
    seed: int,
    tokenizer=None,
    bad_row: Callable[[str], None] = refuse_row,
    scratch: Path | None = None,
) -> Iterator[tuple[str, str | None]]:
    """(text, topic) of the documents of a source in a seeded random order (streams: shuffled within a buffer).

    tokenizer: its template formats conversations (`chat`). bad_row gets a line for every row that is no document. scratch:
    folder on whose disk the documents of local files lie while they are read.
    """
    if text["source"] == "package":
        yield from _embedded(text, seed)
        return
    as_text = chat_format(tokenizer) if text.get("chat") else plain_text
    try:
        if text["source"] == "hub":
            rows = hub_text(text).shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER)
            values = ((text["id"], value_of(row, _field(text)), columns_of(row)) for row in rows)
            documents = _checked(values, _field(text), as_text, bad_row)
        else:
            rows = _checked(_local_values(text, scratch), _field(text), as_text, bad_row)
            documents = _shuffled(rows, seed, scratch)
        yield from ((document, None) for document in documents)
    except Exception as error:  # datasets, pyarrow and the hub's client raise errors of many libraries
        if _is_told_elsewhere(error):
            raise
        if text["source"] == "hub":
            refuse(error, "corpus.id", text["id"], text.get("revision"), kind="dataset")
        raise AtlasError(f"corpus.path: {text['path']} cannot be read ({reason(error)}); check the file") from error


def read_in_order(text: dict) -> Iterator[str]:
    """The documents of a local source in the order of its files and rows. Raises AtlasError for a row that is none."""
    return _checked(_local_values(text, None), _field(text), plain_text, refuse_row)


def check_text(text: dict) -> None:
    """Raise AtlasError if an embedded text has no documents of the topic that is asked for, or if the first document of a local
    one cannot be read or is not there. Of one on the hub nothing is asked.
    """
    if text["source"] == "package":
        _articles(text)
    if text["source"] != "local":
        return
    refuse = refuse_row if text.get("bad_rows", "refuse") == "refuse" else lambda line: None
    as_text = (lambda value: value) if text.get("chat") else plain_text  # a chat's format needs its tokenizer
    if next(_checked(_local_values(text, None), _field(text), as_text, refuse), None) is None:
        raise AtlasError(f"corpus.path: {text['path']} holds no document; give a text")


def _articles(text: dict) -> list[dict]:
    from sae_atlas.base_models.packages import find_text

    articles = list(json.loads(find_text(text["package"]).path().read_text(encoding="utf-8")).values())
    topic, topics = text.get("topic"), sorted({article["topic"] for article in articles})
    if topic not in (None, *topics):
        raise AtlasError(f"corpus.topic: {topic!r} is none of {text['package']}; {nearest(topic, topics)}")
    return articles


def _embedded(text: dict, seed: int) -> Iterator[tuple[str, str | None]]:
    articles, topic = _articles(text), text.get("topic")
    says_nothing = {"Uncategorized": None}
    documents = [(each["extract"], says_nothing.get(each["topic"], each["topic"])) for each in articles]
    # One topic keeps the order of all topics, so its held-out documents are held out of all of them, too.
    order = np.random.default_rng(seed).permutation(len(articles))
    yield from (documents[i] for i in order if topic in (None, articles[i]["topic"]))


def _field(text: dict) -> str:
    return text.get("field", "messages" if text.get("chat") else "text")


def _is_told_elsewhere(error: Exception) -> bool:
    """Is it a line already, or an error of the machine, which the job tells?"""
    return isinstance(error, AtlasError | MemoryError) or getattr(error, "errno", None) in DISK_ERRORS


def _local_values(text: dict, scratch: Path | None) -> Iterator[tuple[str, object, Collection[str]]]:
    """(file and row, value or Bad, names of all columns) of all files of a text."""
    if others := other_files(text["path"], "corpus.path"):
        logger.info("corpus.path: also holds files that are not read: %s", others)
    for file in text_files(text["path"], "corpus.path").values():
        row = 0
        try:
            for row, value, columns in read_rows(file, _field(text), scratch):
                yield f"{file}, row {row}", value, columns
        except Exception as error:  # of csv and pyarrow, which have classes of their own
            if _is_told_elsewhere(error):
                raise
            raise AtlasError(
                f"corpus.path: {file} cannot be read after row {row} ({reason(error)}); check it"
            ) from error


def _checked(
    values: Iterable[tuple[str, object, Collection[str]]], field: str, as_text: Callable, bad_row: Callable
) -> Iterator[str]:
    """The documents among the values. Raises AtlasError where none of the first `TRIED`, or of all, is one."""
    read, documents, line, names = 0, 0, "", ()
    for read, (where, value, columns) in enumerate(values, 1):
        try:
            document = _document(value, field, as_text)
        except ValueError as error:
            line, names = f"{error} ({where})", columns
            bad_row(line)
            if read == TRIED and not documents:
                break
        else:
            documents += 1
            yield document
    if read and not documents:
        asked = f"corpus.field asks for `{field}`, this row has {listed(names)}: name the column that holds the text"
        remedy = asked if names else "check the text"
        raise AtlasError(f"{line}; it is the last of {read:,} rows, and none of them is a document; {remedy}")


def _document(value: object, field: str, as_text: Callable) -> str:
    """Raises ValueError, with the key of the config, for a value that is none."""
    if isinstance(value, Bad):
        raise ValueError(value.why)
    try:
        return as_text(value)
    except ValueError as error:
        raise ValueError(f"corpus.field: column {field!r} {error}") from error


def _shuffled(documents: Iterable[str], seed: int, scratch: Path | None) -> Iterator[str]:
    """Documents in the order of a seeded permutation of all. They are in a temporary file, and few of them in memory."""
    import pyarrow

    schema, batch = pyarrow.schema([("text", pyarrow.large_string())]), []
    with tempfile.TemporaryFile(dir=scratch) as file:
        with pyarrow.ipc.new_stream(file, schema) as writer, progress(None, "documents", "text") as bar:
            for document in documents:
                batch.append(document)
                if len(batch) == DOCUMENTS_PER_BATCH:
                    writer.write_batch(pyarrow.record_batch([batch], schema=schema))
                    bar.update(len(batch))
                    batch = []
            writer.write_batch(pyarrow.record_batch([batch], schema=schema))
        file.flush()
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        column = pyarrow.ipc.open_stream(pyarrow.py_buffer(mapped)).read_all()["text"]
        for number, row in enumerate(np.random.default_rng(seed).permutation(len(column)).tolist()):
            yield column[row].as_py()
            if number % ROWS_IN_MEMORY == 0:  # pages that were read stay in memory until they are given back
                mapped.madvise(mmap.MADV_DONTNEED)
