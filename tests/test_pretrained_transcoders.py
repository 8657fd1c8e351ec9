"""Transcoders that others published are measured at their target, or refused with one line."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

import sae_atlas
from sae_atlas.base_models.load import load
from sae_atlas.config.read import complete_config
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import read_json, write_json
from sae_atlas.publish.formats import saelens, sparsify
from sae_atlas.publish.formats.import_sae import import_sae
from sae_atlas.publish.index import index
from sae_atlas.saes.checkpoint import load_checkpoint, model_state
from sae_atlas.saes.sae import Sae
from sae_atlas.sites.hooks import capture_sites
from sae_atlas.stages.atlas import Atlas
from workflow import planned, small, snakemake

D_IN, D_SAE, LAYERS = 24, 48, (0, 1)
SIZES = {"hidden_size": D_IN, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
PRETRAINED = {  # recipe -> architecture, k, format, file
    "relu": ("relu", None, "saelens", "relu/{layer}"),
    "jumprelu": ("jumprelu", None, "saelens", "jumprelu/{layer}"),
    "sparsify": ("topk", 4, "sparsify", "sparsify/layers.{layer}.mlp"),
    "gemma": ("jumprelu", None, "gemma_scope", "gemma/layer_{layer}/params.npz"),
}


def transcoder(architecture, layer, k=None, skip=False, d_out=D_IN):
    generator = torch.Generator().manual_seed(layer)
    directions = torch.nn.functional.normalize(torch.randn(D_SAE, D_IN, generator=generator))
    weights = [directions, torch.zeros(D_SAE), directions[:, :d_out] / 4, torch.zeros(d_out)]
    threshold = torch.full((D_SAE,), 0.1) if architecture == "jumprelu" else None
    W_skip = torch.randn(d_out, D_IN, generator=generator) / 10 if skip else None
    recipe = {"architecture": architecture, **({"k": k} if k else {})}
    return Sae(model_state(*weights, threshold, W_skip, is_transcoder=True), {"recipe": recipe, "d_out": d_out})


def write(release, recipe, layer):
    architecture, k, kind, file = PRETRAINED[recipe]
    place = release / file.format(layer=layer)
    sae = transcoder(architecture, layer, k, skip=recipe in ("relu", "sparsify"))
    if kind == "gemma_scope":
        place.parent.mkdir(parents=True)
        np.savez(
            place, **{name: getattr(sae, name).numpy() for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")}
        )
    elif kind == "sparsify":  # which says where it is by the folder alone
        sparsify.write(place, sae, {})
    else:
        said = {"hook_name": f"blocks.{layer}.mlp_in", "hook_name_out": f"blocks.{layer}.hook_mlp_out"}
        saelens.write(place, sae, said | {"model_name": "small-neox"})


def atlas_of(release, **changes):
    recipes = {}
    for name, (architecture, k, kind, file) in PRETRAINED.items():
        pretrained = {"source": "local", "format": kind, "path": str(release), "file": file, "tokens": 3000}
        recipes[name] = {"architecture": architecture, **({"k": k} if k else {}), "pretrained": pretrained}
    sites = {"activations.site": "mlp_in", "activations.target": "mlp_out", "activations.layers": list(LAYERS)}
    return small(**{"base_model.sizes": SIZES, "recipes": recipes} | sites | changes)


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    for recipe in PRETRAINED:
        for layer in LAYERS:
            write(folder, recipe, layer)
    return folder


@pytest.fixture(scope="module")
def measured(release, tmp_path_factory):
    folder, config = tmp_path_factory.mktemp("atlas"), atlas_of(release)
    snakemake(folder, config)
    return folder, config


def card_of(folder, recipe):
    (sae,) = folder.glob(f"models/sae/small-neox_mlpin-mlp1_exp2_3k_{recipe}")
    return sae, (sae / "model_card.md").read_text()


def test_every_format_is_measured_at_the_target_and_published_again(measured):
    folder, config = measured
    fvu = (
        pd.read_parquet(folder / "results" / "metrics.parquet").query("metric == 'fvu'").set_index(["recipe", "layer"])
    )
    assert set(fvu.index) == {(recipe, layer) for recipe in PRETRAINED for layer in LAYERS} and fvu.value.notna().all()
    assert "| mlp_in → mlp_out | 1 | gemma | 2 | 3,000 |" in index(folder / "models")
    x = torch.randn(50, D_IN, generator=torch.Generator().manual_seed(9))
    for recipe, (architecture, k, *_) in PRETRAINED.items():
        sae, _ = card_of(folder, recipe)
        original = transcoder(architecture, 1, k, skip=recipe in ("relu", "sparsify"))
        for path in (sae, sae / "cfg.json"):
            back = sae_atlas.load_sae(sae) if path == sae else Sae(**saelens.read(sae))
            torch.testing.assert_close(back.encode(x), original.encode(x))
            torch.testing.assert_close(back(x), original(x))
    assert planned(folder, config) == []


def test_a_card_says_that_it_is_a_transcoder_and_what_loads_it(measured):
    _, relu = card_of(measured[0], "relu")
    assert "- Architecture: ReLU with L1 penalty transcoder with a skip connection\n- Expansion Factor: 2" in relu
    assert "- Input Dimension: 24\n- Output Dimension: 24\n- Input: raw activations" in relu
    assert "from MLP input (the norm's output) of block 1 to MLP output of block 1 (`mlp_in` to `mlp_out`;" in relu
    assert "This transcoder is intended for" in relu and "active on the way from MLP input" in relu
    assert "`sae_lens.SAE.load_from_disk(FOLDER)` the pair" in relu
    sae, topk = card_of(measured[0], "sparsify")
    assert "`sae-atlas export FOLDER sparsify OUT` writes it for other code; SAELens has no TopK transcoder" in topk
    assert "load_from_disk" not in topk and read_json(sae / "cfg.json")["architecture"] == "topk_skip_transcoder"
    said = read_json(sae / "cfg.json")["metadata"]
    assert (said["hook_name"], said["hook_name_out"]) == ("blocks.1.mlp_in", "blocks.1.hook_mlp_out")
    assert said["hf_hook_name_out"] == "gpt_neox.layers.1.mlp" and said["target"] == "mlp_out"


def taken(measured, tmp_path, recipe="relu", provenance=None, layer=1, **sites):
    folder, config = measured
    values = complete_config(config, "config.yaml")["recipes"][recipe]
    where = f"{values['pretrained']['path']}/{values['pretrained']['file'].format(layer=layer)}"
    provenance = provenance or folder / "results" / "base_model" / "provenance.json"
    import_sae(provenance, tmp_path / "sae.pt", values, where, layer, 3000, "small-neox", **sites)
    return load_checkpoint(tmp_path / "sae.pt")


@pytest.mark.parametrize(
    ("recipe", "sites", "line"),
    [
        (
            "relu",
            {"site": "mlp_in"},
            "is a transcoder, the config's are SAEs; name what it predicts as activations.target",
        ),
        ("relu", {"site": "mlp_in", "target": "resid_post"}, "its target is mlp_out, the config's resid_post"),
        ("sparsify", {"site": "resid_mid", "target": "mlp_out"}, "its site is mlp_in, the config's resid_mid"),
    ],
)
def test_what_disagrees_with_the_config_is_one_line(measured, tmp_path, recipe, sites, line):
    with pytest.raises(AtlasError, match=line) as error:
        taken(measured, tmp_path, recipe, **sites)
    assert "\n" not in str(error.value) and not (tmp_path / "sae.pt").exists()


def test_gemma_scope_reads_what_the_norm_gives_before_its_weights(measured, tmp_path):
    said = "read what the norm gives before its weights"
    assert said in card_of(measured[0], "gemma")[1] and said not in card_of(measured[0], "relu")[1]
    shutil.copytree(measured[0] / "results" / "base_model", tmp_path / "base_model")
    (weights,) = tmp_path.glob("base_model/model/*.safetensors")
    tensors, norm = load_file(weights), "gpt_neox.layers.1.post_attention_layernorm"
    tensors[f"{norm}.weight"], tensors[f"{norm}.bias"] = torch.linspace(-2, 3, D_IN), torch.linspace(1, -1, D_IN)
    save_file(tensors, weights, {"format": "pt"})
    provenance = tmp_path / "base_model" / "provenance.json"
    made = taken(measured, tmp_path, "gemma", provenance, site="mlp_in", target="mlp_out")
    assert made["config"]["activations"]["target"] == "mlp_out" and made["config"]["d_out"] == D_IN
    model, _ = load(provenance, "float32", "cpu")
    with capture_sites(model, ["resid_pre", "mlp_in"], [1]) as values:
        model(torch.arange(20).view(2, 10))
    stream = values["resid_pre"][1]  # the residual is parallel, the norm a layer norm
    normalised = torch.nn.functional.layer_norm(stream, (D_IN,), eps=model.config.layer_norm_eps)
    torch.testing.assert_close(Sae(**made)(values["mlp_in"][1]), transcoder("jumprelu", 1)(normalised))


def test_gemma_scope_says_no_site_of_an_sae_so_the_config_does(measured, tmp_path):
    with pytest.raises(
        AtlasError, match=r"its site is blocks.\{layer\}.ln2.hook_normalized, the config's resid_mid; write mlp_in"
    ):
        taken(measured, tmp_path, "gemma", site="resid_mid", target="mlp_out")
    made = taken(measured, tmp_path, "gemma", site="mlp_out")
    assert "b_pre" in made["model_state"] and "target" not in made["config"]["activations"]


def test_an_sae_is_no_transcoder(measured, tmp_path):
    pair = tmp_path / "1"
    state = model_state(torch.zeros(D_SAE, D_IN), torch.zeros(D_SAE), torch.zeros(D_SAE, D_IN), torch.zeros(D_IN), None)
    saelens.write(pair, Sae(state, {"recipe": {"architecture": "relu"}}), {"model_name": "small-neox"})
    values = {"architecture": "relu", "expansion": 2} | {
        "pretrained": {"source": "local", "format": "saelens", "path": str(tmp_path)}
    }
    provenance = measured[0] / "results" / "base_model" / "provenance.json"
    keys = {"layer": 1, "tokens": 3000, "base": "small-neox", "site": "mlp_in", "target": "mlp_out"}
    with pytest.raises(AtlasError, match=r"is an SAE, the config's are transcoders; remove activations\.target"):
        import_sae(provenance, tmp_path / "sae.pt", values, str(pair), **keys)


def test_the_target_is_a_setting_of_transcoders_alone(release):
    cell = {"recipe": "gemma", "layer": 1, "snapshot": "3k"}
    atlas = Atlas(complete_config(atlas_of(release), "config.yaml"))
    assert atlas.settings("import_sae", **cell)["target"] == "mlp_out"
    saes = atlas_of(release)
    del saes["activations"]["target"]
    assert "target" not in Atlas(complete_config(saes, "config.yaml")).settings("import_sae", **cell)
    assert atlas.config["recipes"]["gemma"]["expansion"] == 2  # as the file says


def test_a_changed_target_of_a_published_transcoder_is_named(measured, tmp_path):
    sae, _ = card_of(measured[0], "gemma")
    before = read_json(sae / "config.json")
    try:
        write_json(sae / "config.json", before | {"target": "attn_out", "d_out": 3})
        with pytest.raises(AtlasError) as error:
            index(measured[0] / "models")
    finally:
        write_json(sae / "config.json", before)
    for line in (
        "its name says target mlp_out, config.json says attn_out",
        "model.pt says d_out 24, config.json says 3",
    ):
        assert line in str(error.value)
