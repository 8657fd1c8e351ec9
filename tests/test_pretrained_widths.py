"""SAEs of others whose width the config does not state: their own files know it, and names say it."""

import pytest
import torch
from hub import point_at, serve
from safetensors.torch import save_file

from sae_atlas.config.read import complete_config
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import read_json, write_json
from sae_atlas.plan.shape import read_shape
from sae_atlas.plan.work import count
from sae_atlas.publish.cards.names import parse_sae_name, sae_name
from sae_atlas.saes.checkpoint import save_tensors
from sae_atlas.stages.atlas import Atlas
from workflow import planned, small, snakemake, take

D_IN = 24
SIZES = {"hidden_size": D_IN, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def saelens(folder, layer, d_sae, **config):
    generator = torch.Generator().manual_seed(layer)
    decoder = torch.nn.functional.normalize(torch.randn(d_sae, D_IN, generator=generator))
    tensors = {"W_enc": decoder.T, "b_enc": torch.zeros(d_sae), "W_dec": decoder, "b_dec": torch.zeros(D_IN)}
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()} | {
        "threshold": torch.full((d_sae,), 1e-4)
    }
    folder.mkdir(parents=True)
    save_file(tensors, folder / "sae_weights.safetensors")
    metadata = {"hook_name": f"blocks.{layer}.hook_resid_post", "model_name": "small-neox", "sae_lens_version": "6.5.0"}
    write_json(
        folder / "cfg.json",
        {"architecture": "jumprelu", "d_in": D_IN, "d_sae": d_sae, "metadata": metadata} | config,
    )


def atlas_of(release, kind="saelens", file="layer_{layer}", **recipe):
    pretrained = {"source": "local", "format": kind, "path": str(release), "file": file}
    recipes = {"theirs": {"architecture": "jumprelu", "pretrained": pretrained} | recipe}
    return small(**{"base_model.sizes": SIZES, "activations.layers": [0, 1], "recipes": recipes})


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    release, folder = tmp_path_factory.mktemp("release"), tmp_path_factory.mktemp("atlas")
    for layer in (0, 1):
        saelens(release / f"layer_{layer}", layer, 64)
    config = atlas_of(release)
    snakemake(folder, config)
    return release, folder, config


def test_a_width_that_is_no_multiple_runs_to_the_end_and_is_in_every_name(measured):
    _, folder, config = measured
    folders = {path.name for path in (folder / "models" / "sae").iterdir() if path.is_dir()}
    assert folders == {"small-neox_resid0_64_3k_theirs", "small-neox_resid1_64_3k_theirs"}
    sae = folder / "models" / "sae" / "small-neox_resid1_64_3k_theirs"
    assert "- Expansion Factor: 2.667 (64 latents)" in (sae / "model_card.md").read_text()
    assert read_json(sae / "config.json")["d_sae"] == 64
    assert "small-neox_resid1_64_3k_theirs" in (folder / "results" / "index.html").read_text()
    assert "| 2.667 |" in (folder / "models" / "sae" / "README.md").read_text()
    assert planned(folder, config) == []


def test_what_it_will_take_is_counted(measured):
    _, folder, config = measured
    grid = Atlas(complete_config(config, "config.yaml"))
    work = count(grid, read_shape(grid.config["base_model"], folder / "results" / "base_model" / "model"))
    assert next(each for each in work if each.rule == "import_sae").written == 2 * 2 * 64 * D_IN * 4


def test_a_whole_multiple_that_is_stated_or_not_is_the_same_atlas(tmp_path):
    for layer in (0, 1):
        saelens(tmp_path / f"layer_{layer}", layer, 96)
    silent, stated = (
        Atlas(complete_config(atlas_of(tmp_path, **recipe), "config.yaml")) for recipe in ({}, {"expansion": 4})
    )
    assert silent.config == stated.config and silent.sae_name("theirs", 1) == "small-neox_resid1_exp4_3k_theirs"
    assert silent.identity("evaluate_sae", recipe="theirs", layer=1) == stated.identity(
        "evaluate_sae", recipe="theirs", layer=1
    )


def test_other_formats_state_their_width_elsewhere(tmp_path):
    def width(kind, architecture="topk", **keys):
        config = complete_config(atlas_of(tmp_path, kind, **keys, architecture=architecture), "config.yaml")
        return config["recipes"]["theirs"]["expansion"], config["recipes"]["theirs"].get("d_sae")

    write_json(tmp_path / "layer_0" / "cfg.json", {"k": 4, "d_in": D_IN, "num_latents": 64, "expansion_factor": 32})
    assert width("sparsify", k=4) == (64 / D_IN, 64)
    write_json(tmp_path / "layer_0" / "cfg.json", {"k": 4, "d_in": D_IN, "num_latents": 0, "expansion_factor": 32})
    assert width("sparsify", k=4) == (32, None)
    write_json(tmp_path / "layer_0" / "config.json", {"trainer": {"activation_dim": D_IN, "dict_size": 48}})
    assert width("dictionary_learning", k=4) == (2, None)
    save_tensors(tmp_path / "0.pt", {"model_state": {"encoder.weight": torch.zeros(64, D_IN)}})
    assert width("erdos", "relu", file="{layer}.pt") == (64 / D_IN, 64)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("{}", r"None latents of None dimensions"),
        ("[", r"cfg\.json does not say it \(JSONDecodeError"),
        ('{"d_in": 0, "d_sae": 3}', r"3 latents of 0 dimensions"),
        ("[" * 100_000, r"cfg\.json does not say it"),
        ('{"d_in": 24, "d_sae": 1' + "0" * 400 + "}", r"cfg\.json does not say it"),
        ('{"d_in": 24, "d_sae": "many"}', r"cfg\.json does not say it"),
    ],
)
def test_a_width_that_cannot_be_told_is_one_line_before_the_run(tmp_path, config, words):
    (tmp_path / "layer_0").mkdir()
    (tmp_path / "layer_0" / "cfg.json").write_text(config)
    with pytest.raises(AtlasError, match=words) as error:
        complete_config(atlas_of(tmp_path), "config.yaml")
    line = str(error.value)
    assert line.startswith("config.yaml: recipes.theirs: the width of its SAEs cannot be told: ") and "\n" not in line


def test_a_release_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(
        AtlasError, match=r"layer_0/cfg\.json: is not there; check pretrained\.path and pretrained\.file; or state"
    ):
        complete_config(atlas_of(tmp_path), "config.yaml")


def test_on_the_hub_the_small_file_is_enough_and_is_asked_for_once(tmp_path, monkeypatch):
    saelens(tmp_path / "release" / "layer_0", 0, 64)
    config = atlas_of(tmp_path)
    where = {"source": "hub", "id": "someone/theirs", "format": "saelens", "file": "layer_{layer}"}
    config["recipes"]["theirs"]["pretrained"] = where
    with serve() as hub:
        point_at(hub, tmp_path / "home", monkeypatch)
        hub.files["layer_0/cfg.json"] = (tmp_path / "release" / "layer_0" / "cfg.json").read_bytes()
        assert "model card: small-neox_resid1_64_3k_theirs" in planned(tmp_path, config)
    assert "model card: small-neox_resid1_64_3k_theirs" in planned(tmp_path, config)  # from the cache: nobody answers
    config["recipes"]["theirs"]["pretrained"] = where | {"id": "someone/others"}
    done = snakemake(tmp_path, config, "--dry-run", check=False)
    assert "recipes.theirs: the width of its SAEs cannot be told: pretrained.id: layer_0/cfg.json" in done.stdout
    assert done.returncode != 0 and "Traceback" not in done.stdout


def test_layers_of_other_widths_are_one_line(measured, tmp_path):
    release = tmp_path / "release"
    saelens(release / "layer_0", 0, 64)
    saelens(release / "layer_1", 1, 96)
    take(measured[1], tmp_path, "base_model")
    done = snakemake(tmp_path, atlas_of(release), "results/checkpoints/theirs/sae_layer01_3k.pt", check=False)
    assert "its number of latents is 96, the config's 64" in done.stdout and "Traceback" not in done.stdout


def test_names_with_a_width_give_back_their_parts():
    name = sae_name("gemma-2-2b", "resid_post", 20, None, 4_000_000_000, "scope", 16_384)
    assert name == "gemma-2-2b_resid20_16384_4B_scope"
    parts = parse_sae_name(name)
    assert (parts.base, parts.layer, parts.d_sae, parts.expansion, parts.recipe) == (
        "gemma-2-2b",
        20,
        16_384,
        None,
        "scope",
    )
    assert parse_sae_name("a_b1_2_3_resid0_exp4_3k_topk").expansion == 4
