"""Downloads from the hub that break off, are killed or come with other bytes: told in one line, never taken for whole."""

import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
from hub import COMMIT, point_at, serve
from random_saes import D_IN, random_checkpoint

from models import random_model
from sae_atlas.base_models.byte_tokenizer import byte_tokenizer
from sae_atlas.base_models.prepare import prepare
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import write_json
from sae_atlas.publish.formats import saelens
from sae_atlas.publish.formats.import_sae import import_sae
from sae_atlas.publish.formats.metadata import metadata
from sae_atlas.saes.sae import Sae
from workflow import ROOT

NAME = "someone/theirs"
FILES = {"base_model": "model.safetensors", "pretrained": "layer_3/sae_weights.safetensors"}  # key -> what breaks off


def fetch(key: str, folder: Path) -> dict[str, bytes]:
    """Fetch a base model or a published SAE as their rules do; all that came of it."""
    if key == "base_model":
        prepare(folder / "provenance.json", source="hub", id=NAME)
        files = [path for path in (folder / "model").rglob("*") if path.is_file()]
        return {str(path.relative_to(folder)): path.read_bytes() for path in [*files, folder / "provenance.json"]}
    model = folder / "base_model.json"
    write_json(model, {"source": "hub owner/base-1b", "d_model": D_IN})
    pretrained = {"source": "hub", "id": NAME, "format": "saelens", "file": "layer_{layer}"}
    recipe = {"architecture": "topk", "expansion": 4, "k": 5, "pretrained": pretrained}
    import_sae(
        model, folder / "sae.pt", recipe, "layer_3", layer=3, tokens=9, base="base-1b", site="resid_post",
    )  # fmt: skip
    return {"sae.pt": (folder / "sae.pt").read_bytes()}


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    return make_repository(tmp_path_factory.mktemp("repository"))


def make_repository(folder: Path) -> dict[str, bytes]:
    """The files of a model with its tokenizer, and of an SAE that stands in the same repository."""
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(folder)
    random_model("gpt_neox", vocab_size=len(tokenizer)).save_pretrained(folder)
    sae = Sae(**random_checkpoint("topk"))
    saelens.write(folder / "layer_3", sae, metadata(sae.config))
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def hub(repository, tmp_path, monkeypatch):
    with serve() as hub:
        hub.files = dict(repository)
        point_at(hub, tmp_path / "home", monkeypatch)
        monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1024)  # 10 MB: all of a small file
        yield hub


@pytest.fixture(params=FILES)
def key(request):
    return request.param


@pytest.fixture
def expected(key, hub, tmp_path, monkeypatch):
    """What an undisturbed fetch gives."""
    with monkeypatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "another home" / "hub"))
        found = fetch(key, tmp_path / "undisturbed")
    hub.requests.clear()
    return found


def whole_files(folder: Path) -> list[Path]:
    """What the next stage would take for an output."""
    return [path for name in ("provenance.json", "model", "sae.pt") if (path := folder / name).exists()]


def asked_for(hub, name: str) -> int:
    return sum(method == "GET" and path.endswith(f"/{name}") for method, path, _ in hub.requests)


def test_a_connection_that_breaks_off_is_taken_up_where_it_was(key, hub, expected, tmp_path):
    hub.faults[FILES[key]] = "breaks"
    assert fetch(key, tmp_path / "a") == expected
    assert asked_for(hub, FILES[key]) == 2 and hub.ranges[0] > 0


def test_a_hub_that_ends_it_in_the_middle_is_one_line_and_the_next_run_ends_the_same(key, hub, expected, tmp_path):
    hub.faults[FILES[key]] = "ends"
    with pytest.raises(AtlasError, match=rf"^{key}\.id: .*{NAME}.* at main cannot be had from the hub .* run again"):
        fetch(key, tmp_path / "a")
    assert whole_files(tmp_path / "a") == []
    hub.refuse = None
    assert fetch(key, tmp_path / "a") == expected
    if key == "pretrained":
        assert asked_for(hub, "cfg.json") == 1  # it had come whole


def test_killed_in_the_middle_the_next_run_ends_the_same(key, hub, expected, tmp_path):
    hub.faults[FILES[key]] = "hangs"
    script = "import sys, test_interrupted_downloads as it; it.fetch(sys.argv[1], it.Path(sys.argv[2]))"
    process = subprocess.Popen(
        [sys.executable, "-c", script, key, str(tmp_path / "a")],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
    )
    assert hub.halfway.wait(60)
    process.kill()
    process.wait()
    assert list(tmp_path.rglob("*.incomplete")) and whole_files(tmp_path / "a") == []
    assert fetch(key, tmp_path / "a") == expected
    assert not list((tmp_path / "a").rglob("*.incomplete"))


def test_other_bytes_than_the_hub_lists_are_refused_and_fetched_again(key, hub, expected, tmp_path):
    hub.faults[FILES[key]] = "lies"
    name = Path(FILES[key]).name
    with pytest.raises(AtlasError, match=rf"^{key}\.id: {name} of {NAME} came with other bytes .*it was removed, run"):
        fetch(key, tmp_path / "a")
    assert whole_files(tmp_path / "a") == []
    assert fetch(key, tmp_path / "a") == expected


def test_a_listed_file_that_did_not_come_is_missed(hub, tmp_path):
    """If it gets no list of the files, the hub's client hands over what there is of an earlier fetch."""
    fetched = tmp_path / f".fetch-{COMMIT}"
    fetched.mkdir()
    (fetched / "config.json").write_bytes(hub.files["config.json"])
    hub.faults["tree"] = "ends"
    with pytest.raises(AtlasError, match=rf"^base_model\.id: .* of {NAME} did not come; run again"):
        fetch("base_model", tmp_path)
    assert whole_files(tmp_path) == []
