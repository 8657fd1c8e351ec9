"""An identity changes exactly when the numbers may, and files that hold it are known by it."""

import pyarrow as pa
import pytest

import sae_atlas.stages.versions as versions
from sae_atlas.io.files import write_json
from sae_atlas.io.provenance import (
    _without_comments,
    carries,
    code_identity,
    current_record,
    identity,
    make_record,
    recording,
)
from sae_atlas.io.tables import identities, write_table
from sae_atlas.stages import STAGES


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
    here = make_record("train_sae", {"k": 32}, "1", {"store": "a"}, code_identity(*STAGES["train_sae"].modules))
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


def test_outputs_carry_the_record_of_the_job_at_work_and_outside_of_one_none(tmp_path):
    table, outer, inner = pa.table({"value": [1]}), {"identity": "a1"}, {"identity": "b2"}
    with recording(outer):
        with pytest.raises(KeyError), recording(inner):
            write_table(tmp_path / "inner.parquet", table)
            raise KeyError
        assert current_record() == outer
        write_table(tmp_path / "outer.parquet", table)
    write_table(tmp_path / "none.parquet", table)
    found = {name: identities(tmp_path / f"{name}.parquet") for name in ("inner", "outer", "none")}
    assert found == {"inner": ["b2"], "outer": ["a1"], "none": []} and current_record() is None


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
