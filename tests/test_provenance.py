"""An identity changes exactly when the numbers may, and a wrong one is refused."""

import pytest

import sae_atlas.plan.stages.versions as versions
from sae_atlas.errors import AtlasError
from sae_atlas.files import write_json
from sae_atlas.plan.stages import STAGES
from sae_atlas.provenance import _without_comments, carries, check_record, code_identity, identity, make_record


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


def test_comments_do_not_count():
    old = b"# Why.\ndef f():\n    return 1\n"
    assert _without_comments(b"def f():\n\n    # Why not.\n    return 1\n") == _without_comments(old)
    assert _without_comments(b"def f():\n    return 2\n") != _without_comments(old)


def test_the_code_is_told_and_does_not_count():
    one, other = (make_record("train_sae", {"k": 32}, "1", {"store": "a"}, code) for code in ("one", "other"))
    assert one["identity"] == other["identity"] and one["code"] != other["code"]
    here = versions.record_of("train_sae", {"k": 32}, "1", {"store": "a"})
    assert versions.changed_code([here]) == []
    assert versions.changed_code([here, here | {"code": "another"}]) == ["train_sae"]
    older = {key: value for key, value in here.items() if key != "version"}
    assert versions.changed_code([older | {"code": "another"}]) == []


def test_a_file_carries_what_it_says_in_full(tmp_path):
    file = tmp_path / "file"
    assert not carries(file, ["a1"])
    file.write_bytes(b"")
    assert not carries(file, ["a1"])
    file.write_bytes(b"\x00a1\x00b2")
    assert carries(file, ["a1"]) and carries(file, ["b2", "a1"]) and not carries(file, ["a1", "c3"])
    assert not carries(tmp_path, ["a1"])


@pytest.mark.parametrize("release", ["3.11", "3.12", "3.13"])
def test_an_atlas_from_before_versions_keeps_its_identities(tmp_path, monkeypatch, release):
    """Where the hash of a stage's code stood, it still stands, until the stage's version is raised."""
    hashes = versions._code_hashes()[release]
    origin = tmp_path / "provenance.json"
    record = make_record("prepare_model", {}, hashes["prepare_model"], {})
    write_json(origin, {"record": {**record, "code": record.pop("version")}})
    begun = versions.begun_with([tmp_path / "none.json", origin])
    assert begun == release
    assert versions.stage_version("train_sae", begun) == hashes["train_sae"]
    monkeypatch.setitem(STAGES, "train_sae", STAGES["train_sae"]._replace(version=2))
    assert versions.stage_version("train_sae", begun) == "2"
    assert versions.stage_version("evaluate_sae", begun) == hashes["evaluate_sae"]
    write_json(origin, {"record": record | {"version": "1"}})
    assert versions.begun_with([origin]) is None and versions.begun_with([]) is None


def test_an_unknown_room_is_refused():
    with pytest.raises((ValueError, FileNotFoundError)):
        code_identity("no_such_room")


def test_a_foreign_record_is_refused_with_the_remedy():
    record = make_record("tokenize", {"context": 128}, "code", {})
    check_record("corpus.zarr", record, record["identity"])
    for found in (record, None):
        with pytest.raises(AtlasError, match=r"corpus\.zarr: .*Delete it and rerun"):
            check_record("corpus.zarr", found, "0" * 16)
