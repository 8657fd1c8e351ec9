"""Damaged and hostile input by the thousand: for how long, how bytes are damaged, how much memory reading may take.

`make test` tries a few hundred examples, always the same ones. The long form goes on with other seeds, for a minute per test
or FUZZ_SECONDS; they count from FUZZ_SEED (0), so that whatever is found is found again.
"""

import functools
import itertools
import os
import resource
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

SECONDS = float(os.getenv("FUZZ_SECONDS", "60"))
FIRST = int(os.getenv("FUZZ_SEED", "0"))
NUMBERS = [0, 1, 2**16, 2**31, 2**32 - 1, 2**48, 2**62, 2**63 - 1, 2**63, 2**64 - 1]


def fuzzed(examples: int, **strategies):
    """A test that is run on `examples` drawn values; in its long form again with the next seed while there are seconds left."""

    def decorate(test):
        @pytest.mark.parametrize(
            "seconds", [pytest.param(0, id="short"), pytest.param(SECONDS, id="long", marks=pytest.mark.long)]
        )
        @functools.wraps(test)
        def run(seconds):
            begun = time.monotonic()
            for number in itertools.count(FIRST):
                once = settings(
                    max_examples=examples,
                    deadline=None,
                    database=None,
                    phases=[Phase.generate, Phase.shrink],
                    suppress_health_check=list(HealthCheck),
                )(given(**strategies)(test))
                seed(number)(once)()
                if time.monotonic() - begun >= seconds:
                    tried = (number - FIRST + 1) * examples
                    print(f"\n{test.__name__}: {tried} examples, seeds {FIRST} to {number}")
                    return

        del run.__wrapped__  # or pytest takes the drawn values for fixtures
        return run

    return decorate


@st.composite
def damages(draw, most: int = 4) -> list[tuple]:
    """What is done to some bytes, one thing after another; places are fractions, so that it fits bytes of any length."""
    place = st.floats(0, 1, exclude_max=True)
    return draw(
        st.lists(
            st.one_of(
                st.tuples(st.just("flip"), place, st.integers(0, 7)),
                st.tuples(st.just("cut"), place),
                st.tuples(st.just("insert"), place, st.binary(max_size=16)),
                st.tuples(st.just("number"), place, st.sampled_from(NUMBERS), st.sampled_from([2, 4, 8])),
                st.tuples(st.just("digits"), place, st.sampled_from(NUMBERS)),
                st.tuples(st.just("repeat"), place, st.integers(1, 64)),
            ),
            min_size=1,
            max_size=most,
        )
    )


def damaged(content: bytes, done: list[tuple]) -> bytes:
    """The bytes with bits flipped, an end cut off, bytes or numbers (binary or as text) put in, a stretch repeated."""
    for what, fraction, *more in done:
        at = int(fraction * len(content))
        before, after = content[:at], content[at:]
        if what == "flip" and after:
            content = before + bytes([after[0] ^ (1 << more[0])]) + after[1:]
        elif what == "cut":
            content = before
        elif what == "insert":
            content = before + more[0] + after
        elif what == "number":
            content = before + (more[0] % 2 ** (8 * more[1])).to_bytes(more[1], "little") + after[more[1] :]
        elif what == "digits":  # in place of a number in a text header, or where there is none
            start = next((i for i, byte in enumerate(after) if byte in b"0123456789"), 0)
            rest = after[start:].lstrip(b"0123456789")
            content = before + after[:start] + str(more[0]).encode() + rest
        elif what == "repeat":
            content = before + after[: more[0]] * 3 + after[more[0] :]
    return content


@contextmanager
def memory(megabytes: int):
    """Inside, the process gets no more than this much on top of what it has: an allocation beyond it is a MemoryError."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + megabytes * 2**20, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
