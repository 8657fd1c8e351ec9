"""Checkpoints: plain, whole or an error of one line; the SAE they hold reads the same on every architecture."""

import os
import pickle
from pathlib import Path

import pytest
import torch

from sae_atlas.io.errors import AtlasError
from sae_atlas.saes import checkpoint
from sae_atlas.saes.sae import Sae


def write(path, architecture="topk", **changes):
    generator = torch.Generator().manual_seed(0)
    state = {
        "b_pre": torch.randn(4, generator=generator),
        "encoder.weight": torch.randn(12, 4, generator=generator),
        "encoder.bias": torch.randn(12, generator=generator),
        "decoder.weight": torch.randn(4, 12, generator=generator),
        "decoder.bias": torch.zeros(4),
        "threshold": torch.full((12,), 0.5),
    }
    recipe = {"architecture": architecture} | ({"k": 3} if architecture == "topk" else {})
    config = {"recipe": recipe, "d_in": 4, "d_sae": 12, "record": {"identity": "right"}}
    checkpoint.save(path, state | changes, config, {"steps": 7})
    return path


def test_it_is_plain_tensors_and_values(tmp_path):
    saved = torch.load(write(tmp_path / "a.pt"), weights_only=True)
    assert set(saved) == {"model_state", "config", "stats"}


def test_the_bytes_do_not_depend_on_the_name(tmp_path):
    assert write(tmp_path / "a.pt").read_bytes() == write(tmp_path / "another.pt").read_bytes()


def test_a_disk_that_fills_while_a_checkpoint_is_written_is_an_error_and_leaves_nothing(tmp_path, monkeypatch):
    """torch's writer would abort the process."""
    full = open("/dev/full", "wb", buffering=0)  # noqa: SIM115 - closed by save_tensors
    monkeypatch.setattr(Path, "open", lambda *_: full)
    with pytest.raises(OSError, match="No space left on device"):
        write(tmp_path / "a.pt")
    assert not list(tmp_path.iterdir())


def test_every_flipped_bit_of_the_weights_is_noticed(tmp_path):
    path = write(tmp_path / "a.pt")
    whole = path.read_bytes()
    start = whole.index(checkpoint.load_checkpoint(path)["model_state"]["encoder.weight"].numpy().tobytes())
    for at in (start, start + 100):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(AtlasError, match=r"a\.pt.*fails its checksum"):
            checkpoint.load_checkpoint(path)


@pytest.mark.parametrize("keep", [0, 10, 1000, -1])
def test_truncated_is_noticed(tmp_path, keep):
    path = write(tmp_path / "a.pt")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(AtlasError) as error:
        checkpoint.load_checkpoint(path)
    assert "\n" not in str(error.value)


def test_what_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(AtlasError, match="is not there"):
        checkpoint.load_checkpoint(tmp_path / "none.pt")
    with pytest.raises(AtlasError, match="has no config, stats"):
        checkpoint.save_tensors(tmp_path / "b.pt", {"model_state": {}})
        checkpoint.load_checkpoint(tmp_path / "b.pt")
    with pytest.raises(AtlasError, match=r"encoder\.bias has shape \(11,\), expected \(12,\)"):
        checkpoint.load_checkpoint(write(tmp_path / "c.pt", **{"encoder.bias": torch.zeros(11)}))


class Code:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_code_in_a_checkpoint_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model_state": Code()}, "a.pt")
    with pytest.raises(AtlasError):
        checkpoint.load_checkpoint("a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Code()))
    with pytest.raises(AtlasError):
        checkpoint.load_checkpoint("b.pt")
    assert not (tmp_path / "ran").exists()


def test_topk_keeps_the_k_largest_positive(tmp_path):
    sae = Sae.load(write(tmp_path / "a.pt"))
    x = torch.randn(5, 7, 4, generator=torch.Generator().manual_seed(1))
    z = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    kept = z.topk(3).values.relu().sum(-1)
    latents = sae.encode(x)
    torch.testing.assert_close(latents.sum(-1), kept)
    assert latents.shape == (5, 7, 12) and (latents > 0).sum(-1).max() <= 3
    torch.testing.assert_close(sae(x), latents @ sae.W_dec + sae.b_dec)


def test_other_architectures_are_active_above_their_threshold(tmp_path):
    sae = Sae.load(write(tmp_path / "a.pt", "jumprelu"))
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    z = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    assert torch.equal(sae.encode(x), torch.where(z > 0.5, z, 0.0))
    assert (sae.W_enc.shape, sae.W_dec.shape, sae.b_enc.shape, sae.b_dec.shape) == ((4, 12), (12, 4), (12,), (4,))
