"""Errors a user can mend: one line that names the key or file and the remedy."""

import difflib
from collections.abc import Iterable
from pathlib import Path

REMAKE = "Delete it and rerun; it will be rebuilt."  # the remedy for an output of this workflow
FETCH = "Fetch or make it again."  # for a file of the user's own

LISTED = 40  # words in a line; a vocabulary has a hundred thousand


class AtlasError(Exception):
    """What is wrong, where, and what to do about it, in one line.

    Raised for everything a user can cause or cure (config, files, disk, network). Jobs print it without
    a traceback; any other exception is a defect of ours and keeps its traceback.
    """


class Damaged(AtlasError):
    """An output of this workflow at `path` fails its checksums (`what`); made again, it is as it was."""

    def __init__(self, path: str | Path, what: str):
        super().__init__(f"{path}: {what}. {REMAKE}")
        self.path, self.what = Path(path), what


def reason(error: BaseException) -> str:
    """Type and first line of another library's error, to be quoted in one of ours."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def escaped(text: str) -> str:
    """The text in one line: characters that cannot be printed, such as line ends, as Python writes them."""
    return text if text.isprintable() else repr(text)[1:-1]


def nearest(word: object, words: Iterable[object]) -> str:
    """The remedy for a word that does not exist: "did you mean `topk`?", or the list of `words` that do."""
    words = [str(each) for each in words]
    close = difflib.get_close_matches(str(word), words, 1, 0.5)
    return f"did you mean {listed(close)}?" if close else f"valid are {listed(words)}"


def closest(word: str, words: Iterable[str]) -> str:
    """What there is in place of a word that does not exist, of thousands: "nearest are `a`, `b`, `c`"."""
    near = difflib.get_close_matches(word, list(words), 3, 0)
    return f"nearest are {listed(near)}" if near else "there is nothing"


def listed(words: Iterable[object]) -> str:
    words = [f"`{escaped(str(word))}`" for word in words]
    more = f" and {len(words) - LISTED:,} more" if len(words) > LISTED else ""
    return ", ".join(words[:LISTED]) + more
