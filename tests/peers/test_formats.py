"""What we write, loaded by the released libraries themselves, gives our latents and reconstructions: make test-peers."""

from importlib import import_module

import pytest
import torch
from random_saes import (
    ARCHITECTURES,
    D_IN,
    D_OUT,
    WITH_ENCODER,
    activations,
    random_sae,
    random_transcoder,
    transcoder_checkpoint,
)
from rounding import assert_same_function

from benchmarks.stubs import put_in_place
from sae_atlas.io.files import write_json
from sae_atlas.publish.formats import dictionary_learning, saelens, sparsify
from sae_atlas.publish.formats.load import load_sae
from sae_atlas.publish.formats.metadata import metadata
from sae_atlas.publish.formats.saelens_pair import write_checkpoint

put_in_place()  # of packages that the peers import and none of this needs

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_saelens(tmp_path, architecture):
    from sae_lens import SAE

    sae, x = random_sae(architecture), activations()
    saelens.write(tmp_path, sae, metadata(sae.config))
    theirs = SAE.load_from_disk(tmp_path)
    assert_same_function(theirs, sae, x)
    assert theirs.cfg.metadata.hook_name == "blocks.3.hook_resid_post"
    assert theirs.cfg.metadata.model_name == "owner/base-1b"


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("architecture", [each for each in WITH_ENCODER if each != "topk"])
def test_transcoders_of_saelens(tmp_path, architecture, skip):
    from sae_lens import SAE

    sae, x = random_transcoder(architecture, skip), activations()
    saelens.write(tmp_path, sae, metadata(sae.config))
    theirs = SAE.load_from_disk(tmp_path)
    assert type(theirs).__name__ == f"{'' if architecture == 'relu' else 'JumpReLU'}{'Skip' if skip else ''}Transcoder"
    assert_same_function(theirs, sae, x)
    assert (theirs.cfg.metadata.hook_name, theirs.cfg.metadata.hook_name_out) == (
        "blocks.3.mlp_in",
        "blocks.3.hook_mlp_out",
    )


def test_saelens_refuses_the_pair_of_a_topk_transcoder_by_its_name(tmp_path):
    from sae_lens import SAE

    checkpoint = transcoder_checkpoint("topk")
    arrays = {name: tensor.numpy() for name, tensor in checkpoint["model_state"].items()}
    write_checkpoint(tmp_path, arrays, checkpoint["config"], metadata(checkpoint["config"]))
    with pytest.raises(KeyError, match="topk_transcoder"):
        SAE.load_from_disk(tmp_path)


@pytest.mark.parametrize("architecture", WITH_ENCODER)
def test_dictionary_learning(tmp_path, architecture):
    from dictionary_learning.utils import load_dictionary

    sae, x = random_sae(architecture), activations()
    dictionary_learning.write(tmp_path, sae, metadata(sae.config))
    theirs, _ = load_dictionary(str(tmp_path), device="cpu")
    assert_same_function(theirs, sae, x)


class Dense:
    """A SparseCoder whose latents are all there, zeros among them."""

    def __init__(self, coder):
        self.coder = coder

    def encode(self, x):
        values, places, _ = self.coder.encode(x)
        return torch.zeros(len(x), self.coder.num_latents).scatter(1, places, values)

    def __call__(self, x):
        return self.coder(x).sae_out


@pytest.mark.parametrize(
    "sae", [random_sae("topk"), *(random_transcoder("topk", skip, d_out=D_IN) for skip in (False, True))]
)
def test_sparsify(tmp_path, sae):
    from sparsify import SparseCoder

    sparsify.write(tmp_path, sae, metadata(sae.config))
    assert_same_function(Dense(SparseCoder.load_from_disk(tmp_path)), sae, activations())


@pytest.mark.parametrize("kind", ["StandardSAE", "TopKSAE", "JumpReLUSAE", "GatedSAE", "MatchingPursuitSAE"])
def test_what_saelens_saves_is_read(tmp_path, kind):
    import sae_lens

    torch.manual_seed(0)
    never_early = {"residual_threshold": 0.0, "stop_on_duplicate_support": False}
    more = {"TopKSAE": {"k": 5}, "MatchingPursuitSAE": {"max_iterations": 5, **never_early}}.get(kind, {})
    theirs = getattr(sae_lens, kind)(getattr(sae_lens, f"{kind}Config")(d_in=D_IN, d_sae=48, **more))
    for parameter in theirs.parameters():
        parameter.data = torch.randn_like(parameter)
    theirs.cfg.metadata.hook_name = "blocks.2.hook_mlp_out"
    theirs.save_model(tmp_path)
    sae, x = load_sae(tmp_path), activations()
    torch.testing.assert_close(sae.encode(x), theirs.encode(x), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(sae(x), theirs(x), atol=1e-3, rtol=1e-4)
    said = sae.config["activations"]
    assert (said["site"], said["layer"]) == ("mlp_out", 2)


@pytest.mark.parametrize("kind", ["Transcoder", "SkipTranscoder", "JumpReLUTranscoder", "JumpReLUSkipTranscoder"])
def test_transcoders_that_saelens_saves_are_read(tmp_path, kind):
    from sae_lens.saes import transcoder

    torch.manual_seed(0)
    config = getattr(transcoder, f"{kind}Config")(d_in=D_IN, d_out=D_OUT, d_sae=48, apply_b_dec_to_input=False)
    theirs = getattr(transcoder, kind)(config)
    for parameter in theirs.parameters():
        parameter.data = torch.randn_like(parameter)
    theirs.cfg.metadata.hook_name, theirs.cfg.metadata.hook_name_out = (
        "blocks.2.hook_resid_mid",
        "blocks.2.hook_mlp_out",
    )
    theirs.save_model(tmp_path)
    sae, x = load_sae(tmp_path), activations()
    torch.testing.assert_close(sae.encode(x), theirs.encode(x), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(sae(x), theirs(x), atol=1e-3, rtol=1e-4)
    said = sae.config["activations"]
    assert (said["site"], said["target"], said["layer"]) == ("resid_mid", "mlp_out", 2)


@pytest.mark.parametrize("skip", [False, True])
def test_transcoders_that_sparsify_saves_are_read(tmp_path, skip):
    from sparsify import SparseCoder, SparseCoderConfig

    torch.manual_seed(0)
    theirs = SparseCoder(D_IN, SparseCoderConfig(num_latents=48, k=5, transcode=True, skip_connection=skip))
    for parameter in theirs.parameters():
        parameter.data = torch.randn_like(parameter)
    theirs.save_to_disk(tmp_path / "layers.2.mlp")
    sae, x = load_sae(tmp_path / "layers.2.mlp"), activations()
    torch.testing.assert_close(sae.encode(x), Dense(theirs).encode(x), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(sae(x), theirs(x).sae_out, atol=1e-3, rtol=1e-4)
    said = sae.config["activations"]
    assert (said["site"], said["target"], said["layer"]) == ("in:layers.{layer}.mlp", "layers.{layer}.mlp", 2)


def test_what_sparsify_saves_is_read(tmp_path):
    from sparsify import SparseCoder, SparseCoderConfig

    theirs = SparseCoder(D_IN, SparseCoderConfig(num_latents=48, k=5))
    theirs.save_to_disk(tmp_path / "layers.2.mlp")
    sae, x = load_sae(tmp_path / "layers.2.mlp"), activations()
    torch.testing.assert_close(sae(x), theirs(x).sae_out, **TOLERANCE)
    assert sae.config["activations"]["site"] == "layers.{layer}.mlp" and sae.config["activations"]["layer"] == 2


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("AutoEncoder", "dictionary"),
        ("AutoEncoderNew", "dictionary"),
        ("GatedAutoEncoder", "dictionary"),
        ("JumpReluAutoEncoder", "dictionary"),
        ("AutoEncoderTopK", "trainers.top_k"),
        ("BatchTopKSAE", "trainers.batch_top_k"),
        ("MatryoshkaBatchTopKSAE", "trainers.matryoshka_batch_top_k"),
    ],
)
def test_what_dictionary_learning_saves_is_read(tmp_path, kind, place):
    torch.manual_seed(0)
    more = {"k": 5} if "TopK" in kind else {}
    more |= {"group_sizes": [16, 32]} if "Matryoshka" in kind else {}
    theirs = getattr(import_module(f"dictionary_learning.{place}"), kind)(D_IN, 48, **more)
    for name, tensor in theirs.named_parameters():
        tensor.data = torch.randn_like(tensor) * (0.1 if name == "r_mag" else 1)
    if "Batch" in kind:
        theirs.threshold.fill_(2.0)
    torch.save(theirs.state_dict(), tmp_path / "ae.pt")
    write_json(tmp_path / "config.json", {"trainer": {"dict_class": kind, "layer": 2, "k": 5}})
    sae, x = load_sae(tmp_path), activations()
    torch.testing.assert_close(sae.encode(x), theirs.encode(x), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(sae(x), theirs(x), atol=1e-2, rtol=1e-3)
