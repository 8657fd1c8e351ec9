"""Files of the user's own are inputs: another content is another identity. What older releases made of them is kept."""

import gzip
import hashlib
import json
import os
import time
from pathlib import Path

import pytest
import yaml

from models import random_model
from sae_atlas.__main__ import main
from sae_atlas.base_models.byte_tokenizer import byte_tokenizer
from sae_atlas.config.read import complete_config
from sae_atlas.io.contents import SETTLED, Contents
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import write_json
from sae_atlas.io.provenance import make_record
from sae_atlas.stages.atlas import Atlas
from sae_atlas.stages.contents import local_contents
from workflow import planned, small, snakemake

LOCAL = {"name": "ours", "source": "local", "context": 32, "tokens": "8k", "held_out_tokens": "2k"}


def write_text(file, word="word"):
    file.write_text("".join(json.dumps({"text": f"document {i} " + f"{word} " * 40}) + "\n" for i in range(300)))
    return str(file)


def write_model(folder, seed=0):
    folder.mkdir(exist_ok=True)
    model = random_model("gpt_neox", 257)
    model.gpt_neox.embed_in.weight[0, 0] = seed
    model.float().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def config(tmp_path):
    return complete_config(
        small(
            base_model={"name": "m", "source": "local", "path": write_model(tmp_path / "model")},
            corpus=LOCAL | {"path": write_text(tmp_path / "t.jsonl")},
        ),
        "config.yaml",
    )


def contents(config, folder, records=()):
    return local_contents(config, "config.yaml", records, folder / "contents.json")


def finished(folder, config, stage, **about):
    """The record of a stage as an older release left it: without a content."""
    atlas = Atlas(config)
    record = make_record(stage, atlas.settings(stage), atlas.version(stage), atlas.inputs(stage))
    write_json(folder / f"{stage}.json", {**about, "record": record})
    return folder / f"{stage}.json"


def edit(file):
    """Another content of as many bytes, with the old time: only the time of the change itself tells."""
    about = file.stat()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))


@pytest.mark.parametrize(
    ("file", "stage"),
    [
        ("t.jsonl", "tokenize"),
        ("model/model.safetensors", "prepare_model"),
        ("model/config.json", "prepare_model"),
        ("model/tokenizer.json", "prepare_model"),
    ],
)
def test_an_edit_changes_the_identity_of_what_reads_the_file_and_a_new_time_does_not(tmp_path, config, file, stage):
    before = contents(config, tmp_path)
    assert set(before) == {"tokenize", "prepare_model"}
    os.utime(tmp_path / file)
    assert contents(config, tmp_path) == before
    edit(tmp_path / file)
    after = contents(config, tmp_path)
    assert {name for name in before if before[name] != after[name]} == {stage}
    identities = [Atlas(config, contents=each).identity(stage) for each in ({}, before, after)]
    assert len(set(identities)) == 3


def test_other_files_of_a_model_folder_and_sources_that_are_no_files_of_ours_do_not_count(tmp_path, config):
    before = contents(config, tmp_path)
    (tmp_path / "model" / "README.md").write_text("mine")
    (tmp_path / "model" / "generation_config.json").write_text("{}")
    assert contents(config, tmp_path) == before
    assert contents(complete_config(small(), "config.yaml"), tmp_path) == {}


def test_a_file_is_read_once(tmp_path, monkeypatch):
    file, read = tmp_path / "t.bin", []
    file.write_bytes(b"content")
    monkeypatch.setattr("sae_atlas.io.contents._hash", lambda path, bar: read.append(path) or "digest")
    monkeypatch.setattr(time, "time", lambda: file.stat().st_ctime + 2 * SETTLED)
    for _ in range(3):
        memory = Contents(tmp_path / "memory.json")
        assert memory.sha256([file], "corpus.path") == ["digest"]
        memory.keep()
    assert read == [str(file)]
    (tmp_path / "memory.json").write_text("{damaged")
    assert Contents(tmp_path / "memory.json").sha256([file], "corpus.path") == ["digest"] and len(read) == 2


def test_what_was_changed_a_moment_ago_may_change_again_within_the_same_time(tmp_path):
    file = tmp_path / "t.bin"
    file.write_bytes(b"content")
    memory = Contents(tmp_path / "memory.json")
    memory.sha256([file], "corpus.path")
    assert memory.files == {}


def test_a_txt_is_another_content_only_where_its_lines_of_white_space_separate_documents_now(tmp_path, config):
    """Corpora of other files are what they were; a compressed one and a folder's are seen, too, and each is looked at once."""
    folder = tmp_path / "texts"
    folder.mkdir()
    config["corpus"]["path"] = str(folder)

    def content(**files):
        for file in folder.iterdir():
            file.unlink()
        for name, text in files.items():
            plain = text.encode()
            (folder / name.replace("_", ".")).write_bytes(gzip.compress(plain) if name.endswith("gz") else plain)
        hashes = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}
        before = hashlib.sha256(json.dumps(hashes).encode()).hexdigest()[:16]  # as finished atlases hold it
        return contents(config, tmp_path)["tokenize"] == before

    assert content(a_txt="one\n\ntwo\n", b_jsonl='{"text": "x"}\n \n', c_txt_gz="one\r\n\r\ntwo")
    assert not content(a_txt="one\n \ntwo\n")
    assert not content(a_TXT="one\r\n\t\r\ntwo\n")
    assert not content(a_txt="one\n", c_txt_gz="one\n \ntwo")


def test_what_was_seen_in_a_file_is_remembered_until_it_changes(tmp_path, monkeypatch):
    file, seen = tmp_path / "t.txt", []
    file.write_text("one")

    def look(path):
        seen.append(path.read_text())
        return " " in seen[-1]

    def looked():
        memory = Contents(tmp_path / "memory.json")
        memory.sha256([file], "corpus.path")
        answer = memory.remembered(file, "blank", look)
        memory.keep()
        return answer

    monkeypatch.setattr(time, "time", lambda: file.stat().st_ctime + 2 * SETTLED)
    assert not looked() and not looked() and seen == ["one"]
    file.write_text("o n e")
    assert looked() and looked() and seen == ["one", "o n e"]


def test_a_linked_folder_is_part_of_the_content(tmp_path, config):
    folder, elsewhere = tmp_path / "texts", tmp_path / "scratch"
    folder.mkdir(), elsewhere.mkdir()
    write_text(folder / "a.jsonl")
    config["corpus"]["path"] = str(folder)
    every = [contents(config, tmp_path)["tokenize"]]
    write_text(elsewhere / "B.JSONL")
    (folder / "part2").symlink_to(elsewhere)
    every.append(contents(config, tmp_path)["tokenize"])
    write_text(elsewhere / "B.JSONL", "another")
    every.append(contents(config, tmp_path)["tokenize"])
    assert len(set(every)) == 3


def test_a_text_from_before_contents_is_kept_until_it_is_edited(tmp_path, config):
    record = finished(tmp_path, config, "tokenize")
    assert "tokenize" not in contents(config, tmp_path, [record])
    assert "tokenize" not in contents(config, tmp_path, [record])
    edit(tmp_path / "t.jsonl")
    assert "tokenize" in contents(config, tmp_path, [record])


def test_a_text_that_is_newer_than_what_was_made_of_it_before_contents_is_told_once(tmp_path, config, capsys):
    record = finished(tmp_path, config, "tokenize")
    os.utime(record, (0, 0))
    contents(config, tmp_path, [record])
    line = capsys.readouterr().err
    assert "t.jsonl is newer than" in line and "--forcerun tokenize" in line and line.count("\n") == 1
    contents(config, tmp_path, [record])
    assert not capsys.readouterr().err


def test_of_a_model_from_before_contents_the_recorded_weights_tell(tmp_path, config):
    from sae_atlas.base_models.adapters import weights_sum

    right = {"source": "local model", "weights_sha256": weights_sum(tmp_path / "model")}
    record = finished(tmp_path, config, "prepare_model", **right)
    assert "prepare_model" not in contents(config, tmp_path, [record])
    write_model(tmp_path / "model", seed=1)
    assert "prepare_model" in contents(config, tmp_path, [record])
    (tmp_path / "contents.json").unlink()
    assert "prepare_model" in contents(config, tmp_path, [record])  # whoever forgets asks the record


def test_files_that_are_gone_are_refused_before_any_job_unless_what_was_made_of_them_is_there(tmp_path, config):
    content = contents(config, tmp_path)
    atlas = Atlas(config, contents=content)
    records = []
    for stage in ("tokenize", "prepare_model"):
        record = make_record(stage, atlas.settings(stage), atlas.version(stage), atlas.inputs(stage))
        write_json(tmp_path / f"{stage}.json", {"record": record})
        records.append(tmp_path / f"{stage}.json")
    (tmp_path / "t.jsonl").unlink()
    assert contents(config, tmp_path, records) == content
    with pytest.raises(AtlasError, match=r"config.yaml: corpus\.path: .*t\.jsonl is not there"):
        contents(config, tmp_path)
    (tmp_path / "model" / "config.json").unlink()
    assert contents(config, tmp_path, records) == content
    with pytest.raises(AtlasError, match=r"base_model\.path: .*model is no folder in transformers format"):
        contents(config, tmp_path, records[:1])


def test_an_edited_text_and_other_weights_make_again_what_follows_and_nothing_else_does(tmp_path):
    """The whole workflow as a user runs it, from a folder that is not the config's own."""
    (tmp_path / "run").mkdir()
    config = tmp_path / "config.yaml"
    write_text(tmp_path / "t.jsonl")
    write_model(tmp_path / "model")
    values = small(
        base_model={"name": "m", "source": "local", "path": "model"},
        corpus=LOCAL | {"path": "t.jsonl"},
        activations={"layers": [0], "shard_rows": 1024, "chunk_rows": 256},
        training={"tokens": "3k", "snapshots": []},
    )
    config.write_text(json.dumps(values))
    asked = (tmp_path / "run", config, "results/checkpoints/topk/sae_layer00_3k.pt")
    snakemake(*asked)
    # A run that ends before the files have settled has nothing to remember.
    (tmp_path / "run" / "results" / "contents.json").unlink(missing_ok=True)
    os.utime(tmp_path / "t.jsonl")
    assert planned(*asked) == []
    edit(tmp_path / "t.jsonl")
    jobs = planned(*asked)
    assert "corpus: tokenize" in jobs and "base model: prepare local" not in jobs
    assert any(job.startswith("train:") for job in jobs)
    edit(tmp_path / "t.jsonl")  # back
    write_model(tmp_path / "model", seed=1)
    assert {*jobs, "base model: prepare local"} == set(planned(*asked))


def test_a_path_is_seen_from_the_folder_of_the_run_or_the_configs_own(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    write_text(tmp_path / "t.jsonl")
    paths = small(corpus=LOCAL | {"path": "t.jsonl"})
    file = str(tmp_path / "config.yaml")
    assert complete_config(paths, file)["corpus"]["path"] == "../t.jsonl"
    assert complete_config(small(corpus=LOCAL | {"path": ["t.jsonl", "u.jsonl"]}), file)["corpus"]["path"] == [
        "../t.jsonl",
        "u.jsonl",
    ]
    write_text(tmp_path / "run" / "t.jsonl")
    with pytest.raises(AtlasError, match=r"corpus\.path: t\.jsonl is in .*run and in .*; write the whole path"):
        complete_config(paths, file)
    (tmp_path / "t.jsonl").unlink()
    assert complete_config(paths, file)["corpus"]["path"] == "t.jsonl"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"corpus.source": "local", "corpus.path": "none.txt"}, "corpus.path: none.txt is not there"),
        ({"recipes.topk.start_from": "none/sae"}, "recipes.topk.start_from.path: none/sae is not there"),
        (
            {"corpus.topic": "Mathematic"},
            "config.yaml: corpus.topic: 'Mathematic' is none of wikipedia-introductions; did",
        ),
        ({"corpus.package": "wikipedia"}, "config.yaml: corpus.package: no embedded text 'wikipedia'"),
        ({"corpus.source": "local", "corpus.path": "empty.txt"}, "corpus.path: empty.txt holds no document"),
        ({"corpus.source": "local", "corpus.path": "blank.jsonl"}, "corpus.path: blank.jsonl holds no document"),
        ({"corpus.source": "local", "corpus.path": "latin.txt"}, "holds byte 0xfc at character"),
        ({"corpus.source": "local", "corpus.path": "table.csv"}, "corpus.field"),
        ({"corpus.source": "local", "corpus.path": "broken.txt.gz"}, "broken.txt.gz"),
    ],
)
def test_a_config_is_not_right_without_the_files_that_it_names(tmp_path, monkeypatch, capsys, changes, words):
    (tmp_path / "texts").mkdir()
    monkeypatch.chdir(tmp_path / "texts")
    Path("empty.txt").touch()
    Path("blank.jsonl").write_text("\n\n")
    Path("latin.txt").write_bytes("für".encode("latin-1"))
    Path("table.csv").write_text("words,more\na,b\n")
    Path("broken.txt.gz").write_bytes(b"\x1f\x8bnone")
    if changes.get("corpus.path", "none").partition(".")[0] != "none":
        changes = changes | {"corpus.path": str(tmp_path / "texts" / changes["corpus.path"])}
        words = words.replace("corpus.path: ", f"corpus.path: {tmp_path}/texts/")
    monkeypatch.chdir(tmp_path)
    config = small(**changes)
    if "corpus.path" in changes:
        del config["corpus"]["package"]
    Path("config.yaml").write_text(yaml.safe_dump(config))
    assert main(["check", "config.yaml"]) == 1
    assert words in capsys.readouterr().err
    kept = {file.name for file in tmp_path.iterdir()}
    assert kept == {"config.yaml", "texts"}  # nothing is kept of a check
