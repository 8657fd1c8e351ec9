"""Published SAEs named by their release: every layer's path is known before anything runs, or one line says why not."""

import json

import numpy as np
import pytest
from hub import point_at, serve
from test_pretrained_widths import D_IN, SIZES, saelens

from sae_atlas.__main__ import main
from sae_atlas.config.conversions import CONVERSIONS
from sae_atlas.config.published import FILES, as_written
from sae_atlas.config.read import complete_config, read_config
from sae_atlas.config.releases import all_releases
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import read_json
from sae_atlas.saes.checkpoint import load_checkpoint
from sae_atlas.stages.atlas import Atlas
from workflow import ROOT, planned, small, snakemake

SCOPE = {"release": "gemma-scope-2b-pt-res", "sae": "layer_{layer}/width_16k/average_l0_*", "l0": 80}
MATRYOSHKA = {"release": "gemma-2-2b-res-matryoshka-dc", "sae": "blocks.{layer}.hook_resid_post", "tokens": 3000}


def atlas_of(pretrained: dict, layers=(0, 1), name="gemma-2-2b", **changes) -> dict:
    recipes = {"theirs": {"architecture": "jumprelu", "pretrained": pretrained}}
    model = {"base_model.sizes": SIZES, "base_model.name": name}
    return small(**model | {"activations.layers": list(layers), "recipes": recipes} | changes)


def completed(pretrained: dict, **changes) -> dict:
    sizes = SIZES | {"num_hidden_layers": 40}
    return complete_config(atlas_of(pretrained, **{"base_model.sizes": sizes} | changes), "config.yaml")


def line_of(pretrained: dict, **changes) -> str:
    with pytest.raises(AtlasError) as error:
        completed(pretrained, **changes)
    assert "\n" not in str(error.value)
    return str(error.value).removeprefix("config.yaml: recipes.theirs.pretrained.")


def test_of_each_layer_the_sae_nearest_to_the_wanted_l0_is_taken():
    config = read_config(ROOT / "config" / "gemma-scope.yaml")
    recipe = config["recipes"]["gemma-scope-16k"]
    taken = {"5": "layer_5/width_16k/average_l0_68", "12": "layer_12/width_16k/average_l0_82"}
    taken["19"] = "layer_19/width_16k/average_l0_73"
    assert recipe["pretrained"] == {
        "source": "hub",
        "id": "google/gemma-scope-2b-pt-res",
        "format": "gemma_scope",
        "file": {layer: f"{name}/params.npz" for layer, name in taken.items()},
        "release": "gemma-scope-2b-pt-res",
        "sae": taken,
        "tokens": 4_000_000_000,
    }
    assert recipe["d_sae"] == 16_384 and recipe["expansion"] == 16_384 / 2304
    assert Atlas(config).sae_name("gemma-scope-16k", 5) == "gemma-2-2b_resid5_16384_4B_gemma-scope-16k"


def test_a_layer_more_or_another_wish_for_the_same_sae_changes_no_identity():
    def identity(layers=(5, 12), **changes):
        wanted = {key: value for key, value in (SCOPE | changes).items() if value is not None}
        cell = {"recipe": "theirs", "layer": 12, "snapshot": "3k"}
        return Atlas(completed(wanted, layers=layers)).identity("import_sae", **cell)

    same = {5: "layer_5/width_16k/average_l0_18", 12: "layer_12/width_16k/average_l0_82"}
    assert identity() == identity(layers=(12, 19)) == identity(l0=83) == identity(sae=same, l0=None)
    assert identity() != identity(l0=150)


def test_what_the_page_shows_makes_the_same_atlas_again():
    config = completed(SCOPE, layers=(5, 12))
    shown = json.loads(json.dumps(as_written(config["recipes"]["theirs"])))
    assert shown["pretrained"] == {
        "release": SCOPE["release"],
        "sae": {"5": "layer_5/width_16k/average_l0_68", "12": "layer_12/width_16k/average_l0_82"},
    }
    assert completed(shown["pretrained"], layers=(5, 12)) == config


IN = "of gemma-scope-2b-pt-res"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"release": "gemma-scope-2b-pt-ress"},
            "release: no such release: 'gemma-scope-2b-pt-ress'; nearest are `gemma-",
        ),
        ({"release": "temporal-sae-gemma-2-2b"}, "release: temporal-sae-gemma-2-2b is refused: "),
        (
            {"sae": "layer_{layer}/width_17k/average_l0_*"},
            "sae: nothing is called 'layer_0/width_17k/average_l0_*'; nearest",
        ),
        ({"sae": "layer_{layer}/*"}, "sae: nothing is called 'layer_0/*'"),
        ({"l0": None}, "sae: 'layer_0/width_16k/average_l0_*' fits `layer_0/width_16k/average_l0_105`"),
        (
            {"sae": "layer_5/width_16k/average_l0_*"},
            "sae: 'layer_5/width_16k/average_l0_*' names the same SAE for every layer",
        ),
        ({"sae": "layer_{lyer}/*"}, "sae: 'layer_{lyer}/*' does not fit; in braces it may hold layer ({layer:02d})"),
        ({"sae": {0: "layer_0/width_16k/average_l0_*"}}, "sae: has no layer `1`; add"),
        (
            {"sae": {0: "layer_5/width_16k/*", 1: "b"}},
            f"sae: 'layer_5/width_16k/average_l0_68' {IN} is of layer 5, not 0",
        ),
        ({"sae": {0: "embedding/*/*_44", 1: "b"}}, f"sae: 'embedding/width_4k/average_l0_44' {IN} reads hook_embed"),
        (
            {"sae": {"zero": "a"}, "l0": None},
            "sae: {'zero': 'a'} does not fit; write text, or a map from layer to text",
        ),
        ({"sae": "layer_{layer}/width_16k/average_l0_46"}, "l0: does nothing where each SAE is named"),
        ({"l0": 0}, "l0: 0 does not fit; write a number above 0"),
        ({"id": "a/b"}, "id: does nothing with source `release`; remove it"),
        ({"file": "a{layer}"}, "file: does nothing with source `release`; remove it"),
        ({"format": "saelens"}, "format: does nothing with source `release`; remove it"),
        ({"sae": None}, "sae: None does not fit"),
    ],
)
def test_what_cannot_be_told_is_one_line(changes, line):
    pretrained = {key: value for key, value in (SCOPE | changes).items() if value is not None or key == "sae"}
    assert line_of(pretrained).startswith(line)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"layers": [0, 30]}, "nothing is called 'layer_30/width_16k/average_l0_*'; nearest are `layer_"),
        ({"name": "gemma-2-9b"}, "is of gemma-2-2b, the config's base model is gemma-2-9b; correct one"),
        (
            {"activations.site": "mlp_out"},
            "reads blocks.0.hook_resid_post, the config's site is mlp_out; write `resid_post`",
        ),
        ({"activations.site": "mlp_in", "activations.target": "mlp_out"}, "is an SAE; remove activations.target"),
    ],
)
def test_what_the_list_says_otherwise_than_the_config_is_one_line(changes, line):
    assert line in line_of(SCOPE, **changes)


def test_what_reads_the_heads_of_attention_wants_a_module_path():
    attention = SCOPE | {"release": "gemma-scope-2b-pt-att"}
    assert "reads blocks.0.attn.hook_z, the config's site is attn_out; write a module path" in line_of(
        attention, **{"activations.site": "attn_out"}
    )
    assert completed(attention, **{"activations.site": "in:model.layers.{layer}.self_attn.o_proj"})


def test_transcoders_that_read_a_norm_before_its_weights_are_measured_behind_them():
    of_layer = {"release": "gemma-scope-2b-pt-transcoders", "sae": "layer_{layer}/width_16k/average_l0_*"}
    atlas = Atlas(completed(of_layer, **{"activations.site": "mlp_in", "activations.target": "mlp_out"}))
    settings = atlas.settings("import_sae", recipe="theirs", layer=1, snapshot=atlas.last)
    assert settings["reads"] == "blocks.{layer}.ln2.hook_normalized"
    line = line_of(of_layer, **{"activations.site": "resid_mid", "activations.target": "mlp_out"})
    assert line.endswith(
        "reads blocks.0.ln2.hook_normalized, the config's site is resid_mid; write `mlp_in` as activations.site"
    )
    assert line_of(of_layer).endswith("is a transcoder; name its activations.target")


def test_a_release_without_a_source_is_none_and_no_release_is_missed():
    assert line_of({"format": "saelens", "id": "a/b"}) == "source: missing; write `hub` or `local`, or name a `release`"
    assert line_of({"source": "release", "sae": "a{layer}"}).startswith("release: missing; source `release` needs it")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The loopback hub with the SAEs of two layers where the list says that the release's are."""
    with serve() as hub:
        point_at(hub, tmp_path / "home", monkeypatch)
        for layer in (0, 1):
            folder = tmp_path / "release" / f"blocks.{layer}.hook_resid_post"
            saelens(folder, layer, 64, metadata={"hook_name": folder.name, "model_name": "gemma-2-2b"})
            for file in folder.iterdir():
                hub.files[f"standard/{folder.name}/{file.name}"] = file.read_bytes()
        yield hub


def test_a_release_runs_to_its_cards_which_say_what_was_taken(hub, tmp_path):
    config = atlas_of(MATRYOSHKA)
    card = "models/sae/gemma-2-2b_resid1_64_3k_theirs/config.json"
    snakemake(tmp_path, config, card)
    taken = load_checkpoint(tmp_path / "results" / "checkpoints" / "theirs" / "sae_layer01_3k.pt")["config"]["recipe"]
    assert taken["pretrained"] == {
        "source": "hub",
        "registered": {},
        "id": "chanind/gemma-2-2b-batch-topk-matryoshka-saes-w-32k-l0-40",
        "format": "saelens",
        "file": "standard/blocks.1.hook_resid_post",
        "release": "gemma-2-2b-res-matryoshka-dc",
        "sae": "blocks.1.hook_resid_post",
        "tokens": 3000,
    }
    text = (tmp_path / card).with_name("model_card.md").read_text()
    assert (
        "- Published by others: hub chanind/gemma-2-2b-batch-topk-matryoshka-saes-w-32k-l0-40, "
        "standard/blocks.1.hook_resid_post (blocks.1.hook_resid_post of gemma-2-2b-res-matryoshka-dc, as SAELens lists it), "
        "format saelens." in text
    )
    assert read_json((tmp_path / card).with_name("cfg.json"))["metadata"]["published"] == taken["pretrained"]
    assert planned(tmp_path, config, card) == []


def test_sizes_of_the_list_are_checked_against_the_file(hub, tmp_path):
    arrays = {"W_enc": np.zeros((D_IN, 48)), "b_enc": np.zeros(48), "W_dec": np.zeros((48, D_IN))}
    np.savez(tmp_path / "params.npz", **arrays, b_dec=np.zeros(D_IN), threshold=np.ones(48))
    hub.files["layer_1/width_16k/average_l0_102/params.npz"] = (tmp_path / "params.npz").read_bytes()
    config = atlas_of(SCOPE, layers=[1])
    done = snakemake(tmp_path, config, "results/checkpoints/theirs/sae_layer01_3k.pt", check=False)
    assert "its number of latents is 48, the config's 16384" in done.stdout and "Traceback" not in done.stdout


def test_every_listed_release_is_read_or_refused_with_a_reason():
    assert len(all_releases()) == 170 and sum(len(release.saes) for release in all_releases().values()) == 13_857
    for release in all_releases().values():
        assert release.reader.format in FILES or release.refusal, release.name
    assert {release.conversion for release in all_releases().values()} | {"sparsify", "sae_lens"} == set(CONVERSIONS)
    assert all(kind.format is None or not kind.refusal for kind in CONVERSIONS.values())


def test_the_list_of_releases_is_printed(capsys):
    assert main(["releases"]) == 0
    everything = capsys.readouterr().out
    assert "gemma-scope-2b-pt-res   " in everything and "170 releases of pretrained_saes.yaml of SAELens" in everything
    assert main(["releases", "GEMMA-2-2B"]) == 0
    some = capsys.readouterr().out.splitlines()
    assert "gemma-scope-2b-pt-mlp                                gemma-2-2b  260   gemma_scope" in some
    assert not any("gpt2" in line for line in some)
    assert main(["releases", SCOPE["release"]]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "gemma-scope-2b-pt-res: 316 SAEs of gemma-2-2b in google/gemma-scope-2b-pt-res, format gemma_scope"
    )
    assert "layer_5/width_16k/average_l0_68     68   layer_5/width_16k/average_l0_68" in lines
    assert main(["releases", "nobody"]) == 1
    assert capsys.readouterr().err == (
        "error: no release has 'nobody' in its name, repository or model; `sae-atlas releases` lists all\n"
    )


def test_what_the_list_says_beside_the_files_goes_to_the_reader():
    gpt2 = completed(
        {"release": "gpt2-small-mlp-tm", "sae": "blocks.{layer}.hook_mlp_out", "tokens": 1000},
        name="gpt2-small",
        **{"activations.site": "mlp_out", "recipes.theirs.expansion": 32},
    )
    registered = gpt2["recipes"]["theirs"]["pretrained"]["registered"]
    overrides = {"model_from_pretrained_kwargs": {"center_writing_weights": True}}
    assert set(registered) == {"0", "1"} and all(each["config_overrides"] == overrides for each in registered.values())
    assert len({each["norm_scaling_factor"] for each in registered.values()}) == 2
    settings = Atlas(gpt2).settings("import_sae", recipe="theirs", layer=1, snapshot="3k")
    assert settings["recipe"]["pretrained"]["registered"] == registered["1"]
    assert "registered" not in as_written(gpt2["recipes"]["theirs"])["pretrained"]
    plain = completed(MATRYOSHKA, **{"recipes.theirs.expansion": 16})["recipes"]["theirs"]["pretrained"]
    assert plain["registered"] == {"0": {}, "1": {}}  # it is listed, with nothing to add
