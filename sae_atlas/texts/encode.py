"""Documents to token ids, in batches; what could never become a corpus is refused soon."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from sae_atlas.io.errors import AtlasError
from sae_atlas.texts.documents import TRIED

DOCUMENTS_PER_BATCH, CHARACTERS_PER_BATCH = 512, 2**18  # tokenised together, until either is reached


def encoded(
    documents: Iterable[tuple[str, str | None]], tokenizer, missing: dict[int, str]
) -> Iterator[tuple[list[int], str | None]]:
    """(ids, topic) of documents. Raises AtlasError for a token of `missing`, which the model has no embedding of."""
    for batch in _batches(documents):
        texts, topics = zip(*batch, strict=True)
        ids = tokenizer(
            list(texts),
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]
        if missing:
            _check_embedded(texts, ids, missing)
        yield from zip(ids, topics, strict=True)


def _check_embedded(texts: Sequence[str], ids: list[list[int]], missing: dict[int, str]) -> None:
    """Raise AtlasError if one of the texts, whose tokens are `ids`, has a token of `missing`."""
    for text, document in zip(texts, ids, strict=True):
        if not missing.keys().isdisjoint(document):
            token = next(missing[number] for number in document if number in missing)
            raise AtlasError(
                f"corpus: the document that begins {text[:40]!r} holds {token!r}, which the base model has no embedding of; "
                "take it out of the text"
            )


def with_tokens(
    documents: Iterator[tuple[list[int], str | None]], left_out: Callable[[np.ndarray], np.ndarray]
) -> Iterator[tuple[list[int], str | None]]:
    """The same documents. left_out: token ids -> which of them count nowhere.

    Raises AtlasError where the first `TRIED` have no token that counts: a stream may have no end.
    """
    counts, is_empty = False, True
    for number, (ids, topic) in enumerate(documents, 1):
        if ids and not counts:
            counts, is_empty = not left_out(np.array(ids)).all(), False
        if number == TRIED and not counts:
            all_empty = "corpus.field: the first {:,} documents are empty; name the column that holds the text"
            all_excluded = "corpus.exclude: leaves no token of the first {:,} documents; exclude fewer"
            raise AtlasError((all_empty if is_empty else all_excluded).format(TRIED))
        yield ids, topic


def _batches(documents: Iterable[tuple[str, str | None]]) -> Iterator[list[tuple[str, str | None]]]:
    """Documents to tokenise together: a tokenizer needs a hundred bytes per token of a batch."""
    batch, characters = [], 0
    for document in documents:
        batch.append(document)
        characters += len(document[0])
        if len(batch) == DOCUMENTS_PER_BATCH or characters >= CHARACTERS_PER_BATCH:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
