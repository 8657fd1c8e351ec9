"""What the hub does not give: gated repositories, no token, no internet. One line says what to do, and what it says works."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hub import serve
from refusing import refusing
from test_interrupted_downloads import NAME, make_repository

from workflow import ROOT, small

KEYS = ("base_model", "corpus", "pretrained")
CARD = "---\nlicense: mit\nconfigs:\n- config_name: default\n  data_files: text.jsonl\n---\nModel and text.\n"
TEXT = "".join(json.dumps({"text": f"document {number}"}) + "\n" for number in range(20))
SCRIPT = """
import hashlib, json, sys
from pathlib import Path
import test_interrupted_downloads as it
from sae_atlas.texts.documents import read_documents
from sae_atlas.io.errors import AtlasError

def fetch(key, folder):
    if key == "corpus":
        return [text for text, _ in read_documents({"source": "hub", "id": it.NAME}, 0)]
    return {name: hashlib.sha256(content).hexdigest() for name, content in it.fetch(key, folder).items()}

for key in sys.argv[2:]:
    try:
        print(json.dumps([key, fetch(key, Path(sys.argv[1]) / key)]))
    except AtlasError as error:
        print(json.dumps([key, str(error)]))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with serve() as hub:
        hub.files = make_repository(tmp_path_factory.mktemp("repository"))
        hub.files |= {"README.md": CARD.encode(), "text.jsonl": TEXT.encode()}
        yield hub


def environment(home: Path, url: str, **more: str) -> dict[str, str]:
    own = {
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
    }
    return {key: value for key, value in os.environ.items() if not key.startswith("HF_")} | own | more


def fetched(folder: Path, environment: dict[str, str]) -> dict:
    """What fetching of each kind gives in a process of its own: what came, or the line of the error."""
    folder.mkdir()
    command = [sys.executable, "-c", SCRIPT, str(folder), *KEYS]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=300)
    return dict(map(json.loads, done.stdout.splitlines()))


@pytest.fixture(scope="module")
def there(hub, tmp_path_factory):
    """What comes where nothing is in the way."""
    folder = tmp_path_factory.mktemp("there")
    return fetched(folder / "a", environment(folder / "home", hub.url))


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_repository_ends_in_a_line_with_its_page_and_the_token(status, hub, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "gate", status)
    found = fetched(tmp_path / "a", environment(tmp_path / "home", hub.url))
    for key, line in found.items():
        page = f"{hub.url}/datasets/{NAME}" if key == "corpus" else f"{hub.url}/{NAME}"
        assert line.startswith(f"{key}.id: ") and "\n" not in line
        assert f"(it is gated); accept its terms at {page}, `hf auth login`, or set HF_TOKEN to" in line


@pytest.mark.parametrize("away", ["offline mode", "no network"])
def test_without_internet_a_line_says_what_to_fetch_before_and_then_it_works(away, hub, there, tmp_path):
    home = tmp_path / "home"
    cut_off = (
        environment(home, hub.url, HF_HUB_OFFLINE="1")
        if away == "offline mode"
        else environment(home, "http://127.0.0.1:9")  # nobody listens
    )
    hub.requests.clear()
    for key, line in fetched(tmp_path / "empty", cut_off).items():
        assert line.startswith(f"{key}.id: ") and "\n" not in line
        assert ("HF_HUB_OFFLINE is set" if away == "offline mode" else "it cannot be reached: ") in line
        download = re.search(r"fetch it where there is internet with `hf (download [^`]+)`", line)[1]
        cli = [sys.executable, "-m", "huggingface_hub.cli.hf", *download.split()]
        assert hub.requests == []
        subprocess.run(cli, env=environment(home, hub.url), check=True, stdout=subprocess.DEVNULL)
        hub.requests.clear()
    assert fetched(tmp_path / "full", cut_off) == there
    assert hub.requests == []


def test_a_start_asks_for_the_models_sizes_once_and_then_needs_no_network(hub, tmp_path):
    """With a hub that could not be reached, every start waited for half a minute for what lay in the cache."""
    config = small(base_model={"name": "theirs", "source": "hub", "id": NAME, "revision": "main"})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    hub.requests.clear()
    for cache, url in (("a", hub.url), ("a", "http://127.0.0.1:9"), ("b", "http://127.0.0.1:9")):  # b: measured anew
        known = environment(tmp_path / "home", url, XDG_CACHE_HOME=str(tmp_path / cache))
        command = [sys.executable, "-m", "sae_atlas", "check", str(tmp_path / "config.yaml")]
        done = subprocess.run(command, env=known, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0 and "Retrying" not in done.stdout, done.stdout
    fetched = [path.rsplit("/", 1)[-1] for method, path, _ in hub.requests if method == "GET" and "/resolve/" in path]
    assert {"config.json", "tokenizer.json"} <= set(fetched) and len(fetched) == len(set(fetched))
    assert not [name for name in fetched if "safetensors" in name]
    assert [len(list((tmp_path / cache).rglob("*.json"))) for cache in "ab"] == [1, 1]  # asked once each


def test_a_tokenizer_of_another_model_is_told_before_the_weights_are_fetched(hub, tmp_path, monkeypatch):
    """And one that cannot be had with the config is left to the job that fetches the model."""
    words = json.loads(hub.files["tokenizer.json"])
    words["model"]["vocab"]["beyond"] = 5000
    monkeypatch.setitem(hub.files, "tokenizer.json", json.dumps(words).encode())
    config = small(base_model={"name": "theirs", "source": "hub", "id": NAME})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))

    def checked(home: str) -> tuple[int, str]:
        known = environment(tmp_path / home, hub.url, XDG_CACHE_HOME=str(tmp_path / home))
        command = [sys.executable, "-m", "sae_atlas", "check", str(tmp_path / "config.yaml")]
        done = subprocess.run(command, env=known, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return done.returncode, done.stdout

    hub.requests.clear()
    code, said = checked("a")
    assert code != 0 and "its tokenizer has ids up to 5000, its embedding" in said.splitlines()[-1], said
    assert not [path for _, path, _ in hub.requests if "safetensors" in path]
    alone = (
        "import sys, huggingface_hub; huggingface_hub.hf_hub_download(sys.argv[1], 'config.json')"  # as others leave it
    )
    subprocess.run([sys.executable, "-c", alone, NAME], env=environment(tmp_path / "there", hub.url), check=True)
    code, said = checked("there")
    assert code != 0 and "its tokenizer has ids up to 5000, its embedding" in said.splitlines()[-1], said
    monkeypatch.delitem(hub.files, "tokenizer.json")
    monkeypatch.setitem(hub.files, "tokenizer_config.json", b"{")
    code, said = checked("b")
    assert code != 0 and "its config.json or its tokenizer does not load" in said.splitlines()[-1], said
    monkeypatch.setitem(hub.faults, "tree", True)
    code, said = checked("c")
    hub.refuse = None  # which the fault set
    assert code == 0, said


def test_what_takes_no_locks_and_no_links_takes_what_is_fetched(hub, there, tmp_path):
    without = environment(tmp_path / "home", hub.url, **refusing(tmp_path))
    assert fetched(tmp_path / "without", without) == there


def test_a_snapshot_that_lacks_a_file_is_not_taken(hub, tmp_path):
    home = tmp_path / "home"
    for kind in ("model", "dataset"):
        cli = [sys.executable, "-m", "huggingface_hub.cli.hf", "download", NAME, "--repo-type", kind]
        subprocess.run(cli, env=environment(home, hub.url), check=True, stdout=subprocess.DEVNULL)
    for name in ("model.safetensors", "text.jsonl", "sae_weights.safetensors"):
        for link in home.rglob(name):
            link.unlink()
    found = fetched(tmp_path / "a", environment(home, hub.url, HF_HUB_OFFLINE="1"))
    assert [line.split(":")[0] for line in found.values()] == [f"{key}.id" for key in KEYS]
