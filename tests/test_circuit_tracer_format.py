"""What circuit-tracer is given: tensors and config as its loader names them; what it cannot compute is refused in one line."""

import pytest
import torch
import yaml
from random_saes import D_IN, D_SAE, WITH_ENCODER, activations
from random_transcoders import save_release, save_transcoder
from safetensors.torch import load_file

from sae_atlas.__main__ import main
from sae_atlas.io.errors import AtlasError
from sae_atlas.publish.formats.circuit_tracer import export_release
from sae_atlas.saes.sae import Sae


def theirs(tensors, x):
    """Latents and output by circuit-tracer's own formula: JumpReLU where a threshold is given, without a clip at zero."""
    z = x @ tensors["W_enc"].T + tensors["b_enc"]
    threshold = tensors.get("activation_function.threshold")
    latents = z.relu() if threshold is None else z * (z > threshold)
    output = latents @ tensors["W_dec"] + tensors["b_dec"]
    return latents, output + x @ tensors["W_skip"].T if "W_skip" in tensors else output


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("architecture", [name for name in WITH_ENCODER if name != "topk"])
def test_every_layer_computes_the_same(tmp_path, architecture, skip):
    transcoders = save_release(tmp_path / "name", architecture, skip=skip)
    export_release(tmp_path / "name", tmp_path / "out")
    x = activations()
    for layer, checkpoint in enumerate(transcoders):
        ours, tensors = Sae(**checkpoint), load_file(tmp_path / "out" / f"layer_{layer}.safetensors")
        assert tensors["W_enc"].shape == tensors["W_dec"].shape == (D_SAE, D_IN)
        assert ("activation_function.threshold" in tensors) is (architecture != "relu")
        latents, output = theirs(tensors, x)
        torch.testing.assert_close(latents, ours.encode(x), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(output, ours(x), atol=1e-4, rtol=1e-5)


def test_the_config_names_hooks_and_a_model_of_the_hub(tmp_path):
    save_release(tmp_path / "name", "relu")
    assert main(["export", str(tmp_path / "name"), "circuit_tracer", str(tmp_path / "out")]) == 0
    assert yaml.safe_load((tmp_path / "out/config.yaml").read_text()) == {
        "model_kind": "transcoder_set",
        "feature_input_hook": "mlp.hook_in",
        "feature_output_hook": "hook_mlp_out",
        "scan": "name",
        "model_name": "owner/base-1b",
    }


def test_layers_of_a_deeper_model_do_not_stay(tmp_path):
    save_release(tmp_path / "deep", "relu", layers=4)
    export_release(tmp_path / "deep", tmp_path / "out")
    save_release(tmp_path / "name", "relu", layers=2)
    export_release(tmp_path / "name", tmp_path / "out")
    assert {path.name for path in tmp_path.glob("out/layer*")} == {"layer_0.safetensors", "layer_1.safetensors"}


def test_a_refused_export_leaves_what_was_there(tmp_path):
    save_release(tmp_path / "name", "relu")
    export_release(tmp_path / "name", tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    replaced(d_sae=32)(tmp_path / "name")
    with pytest.raises(AtlasError, match="has 32 latents"):
        export_release(tmp_path / "name", tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize("has_config", [False, True])
def test_files_of_others_are_not_taken_for_layers_of_ours(tmp_path, has_config):
    save_release(tmp_path / "name", "relu")
    if has_config:
        export_release(tmp_path / "name", tmp_path / "out")
    own = tmp_path / "out" / ("layer_norms.safetensors" if has_config else "layer_7.safetensors")
    own.parent.mkdir(exist_ok=True)
    own.write_bytes(b"mine")
    with pytest.raises(AtlasError, match=rf"{own.name}: circuit-tracer would read it .*give another folder"):
        export_release(tmp_path / "name", tmp_path / "out")
    assert own.read_bytes() == b"mine"


def removed(folder):
    (folder / "sae_layer01_final.pt").unlink()


def of_a_deeper_model(folder):
    sizes = {"num_hidden_layers": 4, "hidden_size": D_IN}
    base_model = {"source": "random", "architecture": "llama", "sizes": sizes, "tokenizer": "bytes"}
    (folder / "config.yaml").write_text(yaml.safe_dump({"base_model": base_model}))


def replaced(**how):
    return lambda folder: save_transcoder(folder / "sae_layer01_final.pt", **{"layer": 1, "name": "relu", **how})


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (removed, r"name: has no sae_layer01_final\.pt.*train them all \(activations\.layers: all\)"),
        (of_a_deeper_model, r"name: has no sae_layer03_final\.pt"),
        (replaced(name="topk"), r"sae_layer01_final\.pt: is a TopK transcoder; .*train batch_topk"),
        (replaced(d_sae=32), "has 32 latents without skip connection, layer 0 has 64 latents without"),
        (replaced(skip=True), "has 64 latents with skip connection, layer 0 has 64 latents without"),
        (replaced(site="resid_mid"), "predicts mlp_out from resid_mid; .*train with activations.site mlp_in"),
        (replaced(target=None), r"sae_layer01_final\.pt: is an SAE; .*train some"),
    ],
)
def test_what_circuit_tracer_cannot_compute_is_refused(tmp_path, change, line):
    save_release(tmp_path / "name", "relu")
    change(tmp_path / "name")
    with pytest.raises(AtlasError, match=line) as error:
        export_release(tmp_path / "name", tmp_path / "out")
    assert len(str(error.value).splitlines()) == 1 and not (tmp_path / "out/config.yaml").exists()


def test_a_folder_without_a_release_is_named(tmp_path, capsys):
    assert main(["export", str(tmp_path), "circuit_tracer", str(tmp_path / "out")]) == 1
    assert "holds no sae_layer00_final.pt; circuit-tracer reads all layers" in capsys.readouterr().err


def test_a_release_is_not_written_into_itself(tmp_path):
    save_release(tmp_path / "name", "relu", layers=4)
    of_a_deeper_model(tmp_path / "name")
    with pytest.raises(AtlasError, match=r"config\.yaml: is not of circuit-tracer's kind .*give another folder"):
        export_release(tmp_path / "name", tmp_path / "name")
    assert "base_model" in (tmp_path / "name/config.yaml").read_text()
