"""Published SAEs whose paths differ from layer to layer: a map, or a pattern whose best match is looked up."""

import numpy as np
import pytest
from hub import point_at, serve
from test_pretrained_widths import D_IN, SIZES, saelens

from sae_atlas.config.choice import chosen, fitting
from sae_atlas.config.read import complete_config
from sae_atlas.io.errors import AtlasError
from sae_atlas.stages.atlas import Atlas
from workflow import planned, small

PATTERN = "layer_{layer}/width_16k/average_l0_*/params.npz"
TAKEN = {"0": "layer_0/width_16k/average_l0_7/params.npz", "1": "layer_1/width_16k/average_l0_9.5/params.npz"}
NAMES = [*TAKEN.values(), *(TAKEN[layer].replace("l0_", "l0_10") for layer in TAKEN)]  # 107 and 109.5
NAMES += ["layer_1/width_65k/average_l0_8/params.npz", "README.md"]


def gemma_scope(d_sae=48) -> bytes:
    import io

    file = io.BytesIO()
    arrays = {"W_enc": np.zeros((D_IN, d_sae)), "b_enc": np.zeros(d_sae), "W_dec": np.zeros((d_sae, D_IN))}
    np.savez(file, **arrays, b_dec=np.zeros(D_IN), threshold=np.ones(d_sae))
    return file.getvalue()


def atlas_of(architecture="jumprelu", **pretrained) -> dict:
    recipes = {"theirs": {"architecture": architecture, "pretrained": {"format": "gemma_scope"} | pretrained}}
    return small(**{"base_model.sizes": SIZES, "activations.layers": [0, 1], "recipes": recipes})


def files_of(**pretrained) -> dict:
    return complete_config(atlas_of(**pretrained), "config.yaml")["recipes"]["theirs"]["pretrained"]


@pytest.fixture
def folder(tmp_path):
    """A release in a folder whose name a pattern of the shell would stand for something else by."""
    folder = tmp_path / "their [1] SAEs?"
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(gemma_scope())
    return folder


def test_of_a_folder_each_layers_nearest_is_taken(folder):
    local = {"source": "local", "path": str(folder)}
    found = files_of(**local, file=PATTERN, l0=8)
    assert found == local | {"format": "gemma_scope", "file": TAKEN}
    assert files_of(**local, file=TAKEN) == found
    assert files_of(**local, file=PATTERN, l0=100)["file"]["1"].endswith("average_l0_109.5/params.npz")
    config = complete_config(atlas_of(**local, file=TAKEN | {"7": "of a layer that is not measured"}), "config.yaml")
    settings = Atlas(config).settings("import_sae", recipe="theirs", layer=1, snapshot="3k")
    assert settings["where"] == f"{folder}/{TAKEN['1']}" and settings["recipe"]["pretrained"]["file"] == TAKEN["1"]
    numbers = {int(layer): path for layer, path in TAKEN.items()}  # as YAML reads them
    assert files_of(**local, file=numbers) == found
    assert "import: theirs, layer 01, 3k tokens" in planned(folder, atlas_of(**local, file=numbers))


def test_characters_of_other_patterns_stand_for_themselves(tmp_path):
    for name in ("layer_0 [a]", "layer_0 a", "layer_1 [a]"):
        saelens(tmp_path / f"{name} l0_3", int(name[6]), 48)
    local = {"source": "local", "path": str(tmp_path), "format": "saelens"}
    assert files_of(**local, file="layer_{layer} [a] l0_*")["file"] == {
        "0": "layer_0 [a] l0_3",
        "1": "layer_1 [a] l0_3",
    }
    assert fitting(
        "a?[b]*.x", ["a?[b]c.x", "aq[b]c.x", "a?bc.x", "a?[b]c/d.x", "a?[b]{c}.x", "a?[b].x", "a?[b]cx"]
    ) == [
        "a?[b]c.x",
        "a?[b].x",
    ]


SEVERAL = "layer_0/width_16k/average_l0_*/params.npz"
NONE = "layer_0/width_17k/average_l0_*/params.npz"


@pytest.mark.parametrize(
    ("pretrained", "line"),
    [
        (
            {"file": PATTERN},
            f"file: '{SEVERAL}' fits `{NAMES[2]}`, `{TAKEN['0']}`; write the wanted L0",
        ),
        (
            {"file": PATTERN.replace("16k", "17k"), "l0": 8},
            f"file: nothing is called '{NONE}'; nearest are `{TAKEN['0']}`",
        ),
        ({"file": {0: TAKEN["0"]}}, "file: has no layer `1`; add what is missing"),
        ({"file": {0: TAKEN["0"], "0": "b"}}, "file: "),
        ({"file": {0: "a{layer}", 1: "b"}}, "file.0: 'a{layer}' has a brace; in a map write each name as it is"),
        ({"file": {0: "../a", 1: "b"}}, "file.0: '../a' leads out of the release"),
        ({"file": TAKEN, "l0": 8}, "l0: does nothing where each SAE is named"),
        (
            {"file": "layer_{layer}_{snapshot}_*", "l0": 8},
            "file: 'layer_{layer}_{snapshot}_*' has both `*` and {snapshot}",
        ),
        ({"file": {}}, "file: {} does not fit; write text, or a map from layer to text"),
        ({"file": {True: "a"}}, "file.True: a key must be text"),
    ],
)
def test_what_cannot_be_told_is_one_line(folder, pretrained, line):
    with pytest.raises(AtlasError) as error:
        files_of(source="local", path=str(folder), **pretrained)
    assert str(error.value).startswith(f"config.yaml: recipes.theirs.pretrained.{line}")
    assert "\n" not in str(error.value)


def test_on_the_hub_the_list_of_files_is_asked_for_once(tmp_path, monkeypatch):
    where = {"source": "hub", "id": "someone/theirs", "file": PATTERN, "l0": 8}
    with serve() as hub:
        point_at(hub, tmp_path / "home", monkeypatch)
        hub.files = {name: gemma_scope() for name in NAMES}
        assert files_of(**where)["file"] == TAKEN
        asked = len(hub.requests)
        assert files_of(**where)["file"] == TAKEN and len(hub.requests) == asked
    assert files_of(**where)["file"] == TAKEN  # from the cache: nobody answers
    with pytest.raises(AtlasError) as error:
        files_of(**where | {"id": "someone/others"})
    line = str(error.value)
    assert line.startswith("config.yaml: pretrained.id: the list of files of someone/others at main cannot be had from")
    assert line.endswith("or write a map from layer to path") and "\n" not in line


def test_what_was_published_later_is_seen(tmp_path, monkeypatch):
    where = {"source": "hub", "id": "someone/theirs", "format": "saelens", "file": "layer_{layer}/sae_l0_*"}
    with serve() as hub:
        point_at(hub, tmp_path / "home", monkeypatch)
        hub.files["README.md"] = b"Nothing yet."
        with pytest.raises(
            AtlasError, match=r"pretrained.file: nothing is called 'layer_0/sae_l0_\*'; there is nothing"
        ):
            files_of(**where)
        for layer in (0, 1):
            hub.files[f"layer_{layer}/sae_l0_5/cfg.json"] = b'{"d_in": 24, "d_sae": 48}'
        monkeypatch.setattr("hub.COMMIT", "b" * 40)
        assert files_of(**where)["file"] == {"0": "layer_0/sae_l0_5", "1": "layer_1/sae_l0_5"}


def test_a_layers_number_does_not_go_on_in_what_is_chosen():
    names = ["layer_1", "layer_1_a", "layer_10", "layer_10_a", "layer_11", "11_layer"]
    assert fitting("layer_1*", names) == ["layer_1", "layer_1_a"]
    assert fitting("*1_layer", names) == [] and fitting("*_1*", names) == ["layer_1", "layer_1_a"]


def test_the_nearest_l0_is_taken_and_what_is_unclear_is_refused():
    assert chosen("k", "a_*", {"a_70": 70.0, "a_90": 90.0, "a_500": 500.0}, 80) == "a_70"  # of two as near the sparser
    assert chosen("k", "a_*", {"a_70": 70.0, "a_90": 90.0, "b_80": 80.0}, 81) == "a_90"
    assert chosen("k", "a_*", {"a_70": None, "b": None}, None) == "a_70"
    with pytest.raises(AtlasError, match=r"k: 'a_\*' fits `a_x`, whose L0 is not stated; write more"):
        chosen("k", "a_*", {"a_70": 70.0, "a_x": None}, 80)
    with pytest.raises(AtlasError, match=r"k: 'a_\*' fits `a_16k`, `a_65k`, which have one L0; write more"):
        chosen("k", "a_*", {"a_16k": 70.0, "a_65k": 70.0, "a_1m": 8.0}, 80)
    with pytest.raises(AtlasError, match=r"k: nothing is called 'a_\*'; there is nothing"):
        chosen("k", "a_*", {}, 80)
