"""Transcoders in other libraries' formats: what is written reads back the same; what a library has not is refused."""

import numpy as np
import pytest
import torch
from random_saes import (
    D_IN,
    D_OUT,
    D_SAE,
    WITH_ENCODER,
    activations,
    random_sae,
    random_transcoder,
    transcoder_checkpoint,
)
from rounding import assert_same_function
from test_exports import WRITERS, Code, same_weights

from sae_atlas.io.errors import AtlasError
from sae_atlas.publish.formats import one_file, saelens, sparsify
from sae_atlas.publish.formats.load import load_sae
from sae_atlas.publish.formats.metadata import metadata
from sae_atlas.publish.formats.saelens_pair import write_checkpoint


def assert_same_transcoder(back, sae):
    assert_same_function(back, sae, activations())
    assert (back.is_transcoder, back.d_out, back.k) == (True, sae.d_out, sae.k)
    assert (back.W_skip is None) == (sae.W_skip is None)
    sites = {key: back.config["activations"][key] for key in ("site", "target", "layer")}
    assert sites == {"site": "mlp_in", "target": "mlp_out", "layer": 3} and back.config["tokens"] == 120_000


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("architecture", WITH_ENCODER)
def test_a_written_transcoder_reads_back_the_same(tmp_path, architecture, skip):
    """The pair beside a card is written for every architecture; SAELens' own format by `export` for those that it has."""
    checkpoint, sae = transcoder_checkpoint(architecture, skip), random_transcoder(architecture, skip)
    one_file.write(tmp_path, sae, metadata(sae.config))
    back = load_sae(tmp_path / "sae.safetensors")
    assert same_weights(sae, back) and back.is_transcoder and back.config["recipe"] == sae.config["recipe"]
    arrays = {name: tensor.numpy() for name, tensor in checkpoint["model_state"].items()}
    write_checkpoint(tmp_path / "pair", arrays, checkpoint["config"], metadata(checkpoint["config"]))
    assert_same_transcoder(load_sae(tmp_path / "pair"), sae)
    if architecture != "topk":
        saelens.write(tmp_path / "saelens", sae, metadata(sae.config))
        files = [(tmp_path / folder / file).read_bytes() for file in saelens.FILES for folder in ("pair", "saelens")]
        assert files[0] == files[1] and files[2] == files[3]
        return
    square = random_transcoder(architecture, skip, d_out=D_IN)
    sparsify.write(tmp_path / "sparsify", square, metadata(square.config))
    assert_same_transcoder(load_sae(tmp_path / "sparsify"), square)


@pytest.mark.parametrize(
    ("kind", "architecture", "line"),
    [
        ("saelens", "topk", "SAELens has no TopK transcoder; choose sparsify"),
        ("sparsify", "jumprelu", "sparsify has TopK only, this transcoder is jumprelu"),
        ("sparsify", "topk", "this one reads 16 and predicts 12; choose safetensors"),
        ("dictionary_learning", "relu", "dictionary_learning has SAEs only, this is a transcoder"),
    ],
)
def test_a_transcoder_that_a_library_has_not_is_refused(tmp_path, kind, architecture, line):
    sae = random_transcoder(architecture)
    with pytest.raises(AtlasError, match=line) as error:
        WRITERS[kind].write(tmp_path, sae, metadata(sae.config))
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("hookpoint", "sites"),
    [
        ("layers.3.mlp", ("in:layers.{layer}.mlp", "layers.{layer}.mlp", 3)),
        ("layers.3", ("resid_pre", "resid_post", 3)),
        ("h.3.mlp.c_proj", ("in:h.{layer}.mlp.c_proj", "h.{layer}.mlp.c_proj", 3)),
        ("renamed", (None, None, None)),
    ],
)
def test_sparsify_predicts_the_output_of_a_module_from_its_input(tmp_path, hookpoint, sites):
    sparsify.write(tmp_path / hookpoint, random_transcoder("topk", d_out=D_IN), {})
    said = load_sae(tmp_path / hookpoint).config["activations"]
    assert tuple(said[key] for key in ("site", "target", "layer")) == sites


@pytest.mark.parametrize("d_out", [D_IN, D_OUT])
def test_gemma_scope_is_what_the_caller_says(tmp_path, d_out):
    """By its own formula: both kinds encode x itself, in JumpReLU."""
    generator, x, file = np.random.default_rng(0), activations(), tmp_path / "params.npz"
    shapes = {"W_enc": (D_IN, D_SAE), "W_dec": (D_SAE, d_out), "b_enc": (D_SAE,), "b_dec": (d_out,)}
    arrays = {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    arrays["threshold"] = generator.random(D_SAE).astype(np.float32)
    np.savez(file, **arrays)
    w = {name: torch.from_numpy(array) for name, array in arrays.items()}
    z = x @ w["W_enc"] + w["b_enc"]
    latents = z.relu() * (z > w["threshold"])
    transcoder = load_sae(file, is_transcoder=True)
    assert (transcoder.kind, transcoder.d_out, transcoder.architecture) == ("transcoder", d_out, "jumprelu")
    torch.testing.assert_close(transcoder.encode(x), latents, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(transcoder(x), latents @ w["W_dec"] + w["b_dec"], atol=1e-4, rtol=1e-4)
    if d_out == D_IN:
        sae = load_sae(file)
        assert not sae.is_transcoder
        torch.testing.assert_close(sae.encode(x), latents, atol=1e-4, rtol=1e-4)
    else:
        with pytest.raises(AtlasError, match=r"params\.npz: W_enc has shape"):
            load_sae(file)


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda file, arrays: np.savez_compressed(file, **arrays), "is compressed, which may unpack to any size"),
        (lambda file, arrays: np.savez(file, a=np.array([Code()])), "Object arrays cannot be loaded"),
        (lambda file, arrays: file.write_bytes(file.read_bytes()[:-40]), "cut short or no checkpoint"),
        (lambda file, arrays: np.savez(file, **arrays, W_skip=arrays["W_enc"]), "unknown tensor `W_skip`"),
    ],
)
def test_a_gemma_scope_file_that_is_none_is_one_line(tmp_path, monkeypatch, spoil, line):
    monkeypatch.chdir(tmp_path)
    names = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")
    arrays = {name: getattr(random_sae("jumprelu"), name).numpy() for name in names}
    np.savez("params.npz", **arrays)
    spoil(tmp_path / "params.npz", arrays)
    with pytest.raises(AtlasError, match=line) as error:
        load_sae("params.npz")
    assert "\n" not in str(error.value) and "params.npz" in str(error.value)
    assert not (tmp_path / "ran").exists()
