"""Checkpoints, stores and weights with damage of every kind: read as they were or refused in one line, within their memory."""

import functools
import json
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from fuzzing import damaged, damages, fuzzed, memory
from hypothesis import strategies as st
from random_saes import random_checkpoint
from stores import make_store

from models import random_model
from sae_atlas.activations.store import open_store, seal
from sae_atlas.base_models.load import read_model
from sae_atlas.io.errors import AtlasError
from sae_atlas.publish.formats.foreign import read_safetensors
from sae_atlas.publish.formats.load import export, read
from sae_atlas.publish.formats.saelens import FILES
from sae_atlas.saes.checkpoint import load_checkpoint, save
from sae_atlas.saes.sae import Sae


def refused_or(read, path: Path, megabytes: int = 400):
    """What `read` gives of a path, or None if it is refused as it must be: one line that names a file there."""
    try:
        with memory(megabytes):
            return read(path)
    except AtlasError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
        assert path.name in str(error)
        return None


def use(sae: Sae) -> Sae:
    """As whoever loads an SAE uses it."""
    assert torch.Tensor.size(sae(torch.zeros(2, sae.d_in))) == (2, sae.d_in)
    return sae


@pytest.fixture(scope="module", autouse=True)
def loaded():
    """What is imported late is imported now, or it would count as memory that reading takes."""
    with tempfile.TemporaryDirectory() as folder:
        use(Sae.load(checkpoint_in(folder)))
    for kind in ("model", "saelens"):
        whole(kind)
    for kind in ("none", "zstd"):
        rows(kind)


@functools.cache
def whole(kind: str) -> dict[str, bytes]:
    """The files of a store (`zstd` or `none`), of a model (`model`) or of an SAE in a format, undamaged."""
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder) / "there"
        if kind in ("zstd", "none"):
            there = make_store(Path(folder), rows=1000, compression=kind)
        elif kind == "model":
            random_model("gpt_neox").float().save_pretrained(there)
        else:
            export(checkpoint_in(folder), kind, there)
        files = sorted(file for file in there.rglob("*") if file.is_file())
        return {str(file.relative_to(there)): file.read_bytes() for file in files}


def damaged_copy(kind: str, folder: str, at: int | str, done: list) -> Path:
    """A copy in `folder` with one file damaged: the one of that name or number. Its path, if the file stands alone."""
    there = Path(folder) / "there"
    names = list(whole(kind))
    chosen = at if isinstance(at, str) else names[at % len(names)]
    for name, content in whole(kind).items():
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        (there / name).write_bytes(damaged(content, done) if name == chosen else content)
    return there / chosen if len(names) == 1 else there


def checkpoint_in(folder, architecture: str = "topk") -> Path:
    path = Path(folder) / "a.pt"
    save(path, **random_checkpoint(architecture))
    return path


@fuzzed(100, done=damages())
def test_a_damaged_checkpoint_is_what_it_was_or_refused(done):
    with tempfile.TemporaryDirectory() as folder:
        path = checkpoint_in(folder)
        before = load_checkpoint(path)["model_state"]
        path.write_bytes(damaged(path.read_bytes(), done))
        found = refused_or(load_checkpoint, path)
        if found:
            assert all(torch.equal(found["model_state"][name], tensor) for name, tensor in before.items())


@fuzzed(100, done=damages(), architecture=st.sampled_from(["topk", "jumprelu"]))
def test_a_forged_checkpoint_is_an_sae_or_refused(done, architecture):
    """The sums are right, the pickle is not: whoever wrote the file wanted it so."""
    with tempfile.TemporaryDirectory() as folder:
        path = checkpoint_in(folder, architecture)
        forge(path, lambda content: damaged(content, done))
        refused_or(lambda file: use(Sae.load(file)), path)


def forge(path: Path, change, compression: int = zipfile.ZIP_STORED) -> None:
    """Write a checkpoint's archive anew with its pickle changed."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, change(content) if name.endswith("data.pkl") else content)


class Hungry:
    """Asks for memory when it is unpickled, by a name that torch lets through."""

    def __reduce__(self):
        return bytearray, (2**33,)


def test_files_that_ask_for_memory_are_refused_before_they_get_it(tmp_path):
    path = checkpoint_in(tmp_path)
    forge(path, bytes, zipfile.ZIP_DEFLATED)
    with memory(400), pytest.raises(AtlasError, match="is compressed, which may unpack to any size"):
        load_checkpoint(path)
    about = random_checkpoint("topk")
    state = about["model_state"]
    save(path, state | {"encoder.weight": torch.zeros(1).expand(64, 16)}, about["config"], {})
    with memory(400), pytest.raises(AtlasError, match=r"encoder\.weight is not plain float32 numbers"):
        load_checkpoint(path)
    save(path, state, about["config"], {"hungry": Hungry()})
    with memory(400), pytest.raises(AtlasError, match="holds more than tensors and plain values"):
        load_checkpoint(path)


@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "vocab_size", "intermediate_size"])
def test_a_model_that_its_weights_cannot_be_is_not_made(tmp_path, key):
    random_model("gpt_neox").float().save_pretrained(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {key: 2**30}))
    with memory(400), pytest.raises(AtlasError, match="more than its weights hold"):
        read_model(tmp_path / "model", "float32", "cpu")


@fuzzed(100, done=damages())
def test_damaged_safetensors_are_tensors_or_refused(done):
    with tempfile.TemporaryDirectory() as folder:
        refused_or(read_safetensors, damaged_copy("saelens", folder, FILES[1], done) / FILES[1])


KINDS = st.sampled_from(["saelens", "sparsify", "dictionary_learning", "safetensors"])


@fuzzed(100, done=damages(), kind=KINDS, at=st.integers(0, 3))
def test_damaged_saes_of_others_are_saes_or_refused(done, kind, at):
    with tempfile.TemporaryDirectory() as folder:
        path = damaged_copy(kind, folder, at, done)
        refused_or(lambda path: use(Sae(**read(path, kind))), path)


STORES = st.sampled_from(["none", "zstd"])


@functools.cache
def rows(kind: str) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        return np.concatenate(list(open_store(damaged_copy(kind, folder, "", [])).batches(50)))


@fuzzed(100, done=damages(), at=st.integers(0, 2), kind=STORES)
def test_a_damaged_store_is_what_it_was_or_refused(done, at, kind):
    with tempfile.TemporaryDirectory() as folder:
        path = damaged_copy(kind, folder, at, done)
        found = refused_or(lambda path: list(open_store(path).batches(50)), path)
        assert found is None or np.array_equal(np.concatenate(found), rows(kind))


@fuzzed(100, done=damages(), kind=STORES)
def test_a_forged_store_is_read_or_refused(done, kind):
    """The attributes and the shape are sealed again after they have been changed."""
    with tempfile.TemporaryDirectory() as folder:
        path = damaged_copy(kind, folder, "zarr.json", done)
        file = path / "zarr.json"
        try:
            about = json.loads(file.read_text())
            about["attributes"]["seal"] = seal(zarr.open_array(path, mode="r"))
            file.write_text(json.dumps(about))
        except Exception:  # it cannot be sealed, so nobody could forge it
            return
        refused_or(lambda path: [batch.sum() for batch in open_store(path).batches(50)], path)


@fuzzed(40, done=damages(2), file=st.sampled_from(["config.json", "model.safetensors", "generation_config.json"]))
def test_a_damaged_model_loads_or_is_refused(done, file):
    with tempfile.TemporaryDirectory() as folder:
        path = damaged_copy("model", folder, file, done)
        refused_or(lambda path: read_model(path, "float32", "cpu"), path, megabytes=1500)
