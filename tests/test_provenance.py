"""An identity changes exactly when the numbers may, and a wrong one is refused."""

import pytest

from sae_atlas.errors import AtlasError
from sae_atlas.provenance import _without_docstrings, check_record, code_identity, identity, make_record


def test_every_part_counts_and_key_order_does_not():
    base = identity("train_sae", {"k": 32, "lr": 1e-3}, "code", {"store": "a"})
    assert base == identity("train_sae", {"lr": 1e-3, "k": 32}, "code", {"store": "a"})
    others = [
        identity("evaluate_sae", {"k": 32, "lr": 1e-3}, "code", {"store": "a"}),
        identity("train_sae", {"k": 33, "lr": 1e-3}, "code", {"store": "a"}),
        identity("train_sae", {"k": 32, "lr": 1e-3}, "other", {"store": "a"}),
        identity("train_sae", {"k": 32, "lr": 1e-3}, "code", {"store": "b"}),
    ]
    assert len({base, *others}) == 5


def test_comments_and_docstrings_do_not_count():
    import ast

    def dump(text):
        return ast.dump(_without_docstrings(ast.parse(text)))

    assert dump('def f():\n    """Old."""\n    return 1  # why\n') == dump('def f():\n    """New."""\n    return 1\n')
    assert dump("def f():\n    return 1\n") != dump("def f():\n    return 2\n")


def test_an_unknown_room_is_refused():
    with pytest.raises((ValueError, FileNotFoundError)):
        code_identity("no_such_room")


def test_a_foreign_record_is_refused_with_the_remedy():
    record = make_record("tokenize", {"context": 128}, "code", {})
    check_record("corpus.zarr", record, record["identity"])
    for found in (record, None):
        with pytest.raises(AtlasError, match=r"corpus\.zarr: .*Delete it and rerun"):
            check_record("corpus.zarr", found, "0" * 16)
