"""SAEs that others published are measured as ours are, or refused with one line."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from hub import point_at, serve
from safetensors.torch import load_file, save_file

import sae_atlas
from sae_atlas.__main__ import main
from sae_atlas.config.read import complete_recipe, read_config
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import read_json
from sae_atlas.plan.disk import disk
from sae_atlas.plan.shape import read_shape
from sae_atlas.plan.work import count
from sae_atlas.saes.checkpoint import load_checkpoint, save_tensors
from sae_atlas.stages.atlas import Atlas
from workflow import kinds, planned, small, snakemake, take

LAYERS = (0, 1)
TARGETS = ["results/metrics.parquet", "models/sae/README.md"]
FOLDERS = {"saelens": "layer_{layer}", "sparsify": "layers.{layer}", "dictionary_learning": "resid/{layer}"}


def published(finished, release):
    """The finished atlas's SAEs as others would publish them, and the recipes that name them."""
    models, recipes = finished.folder / "models", {}
    for kind, place in FOLDERS.items():
        for layer in LAYERS:
            sae = models / "sae" / f"small-neox_resid{layer}_exp4_3k_topk"
            assert main(["export", str(sae), kind, str(release / kind / place.format(layer=layer))]) == 0
        recipes[kind] = {"architecture": "topk", "k": 4, "expansion": 4} | {
            "pretrained": {
                "source": "local",
                "format": kind,
                "path": str(release / kind),
                "file": place,
                "tokens": 3000,
            }
        }
    ours = models / "releases" / "small-neox-saes-x4-topk"
    recipes["again"] = {"architecture": "topk", "k": 4, "expansion": 4} | {
        "pretrained": {"source": "local", "format": "atlas", "path": str(ours)}
    }
    for layer in LAYERS:
        for snapshot in ("1k", "2k", "final"):
            name = f"sae_layer{layer:02d}_{snapshot}.pt"
            state = load_checkpoint(models / "releases" / "small-neox-saes-x4-l1" / name)["model_state"]
            state = {key: tensor.bfloat16() for key, tensor in state.items() if key != "threshold"}
            state["decoder.bias"] = state["b_pre"].clone()  # the two biases are redundant there
            state["b_pre"] = torch.zeros(32, dtype=torch.bfloat16)
            config = {"d_model": 32, "d_sae": 128, "target_layer": layer, "l1_coeff": 3e-4, "tokens_seen": 2944}
            config |= {"model_name": "someone/small-neox", "lr": 3e-4}
            save_tensors(release / "erdos" / name, {"model_state": state, "config": config, "stats": []})
    recipes["erdos"] = {"architecture": "relu", "expansion": 4} | {
        "pretrained": {"source": "local", "format": "erdos", "path": str(release / "erdos")}
    }
    return recipes


@pytest.fixture(scope="module")
def measured(finished, tmp_path_factory):
    """A folder in which SAEs of every format were measured and none was trained, and its config.

    One recipe with one snapshot and one with several have all that an atlas has; the others came later and have no figures.
    """
    release, folder = tmp_path_factory.mktemp("release"), tmp_path_factory.mktemp("measured")
    recipes = published(finished, release)
    for names, targets in ((["saelens", "erdos"], []), (list(recipes), TARGETS)):
        config = small(**{"recipes": {name: recipes[name] for name in names}, "activations.layers": list(LAYERS)})
        snakemake(folder, config, *targets)
    return folder, config


def test_nothing_is_trained(measured):
    folder, _ = measured
    assert not (folder / "results" / "stores").exists() and not (folder / "results" / "curves").exists()
    assert not (folder / "models" / "releases").exists()
    assert len(list(folder.glob("models/sae/*/model_card.md"))) == 5 * len(LAYERS)


def test_the_page_hides_the_folders_of_this_machine(measured):
    folder, config = measured
    page = (folder / "results" / "index.html").read_text()
    assert "erdos" in page and config["recipes"]["erdos"]["pretrained"]["path"] not in page


def test_what_there_is_to_do_can_be_counted_without_training(measured):
    grid = Atlas(read_config(measured[0] / "config.yaml"))
    shape = read_shape(grid.config["base_model"], measured[0] / "results" / "base_model" / "model")
    work = {each.rule: each for each in count(grid, shape)}
    weights = 2 * 32 * 128 * 4  # bytes of an encoder and a decoder
    assert "train_sae" not in work and work["import_sae"].written == (2 * 6 + 3 * 2) * weights
    assert disk(grid, list(work.values())).peak >= work["import_sae"].written


def test_every_format_measures_as_the_original(finished, measured):
    ours = pd.read_parquet(finished.folder / "results" / "metrics.parquet").query("recipe == 'topk' and layer < 2")
    table = pd.read_parquet(measured[0] / "results" / "metrics.parquet")
    keys = ["layer", "snapshot", "metric"]
    expected = ours.set_index(keys).value
    again = table[table.recipe == "again"].set_index(keys).value
    pd.testing.assert_series_equal(again, expected, check_exact=True)
    for kind in FOLDERS:
        found = table[table.recipe == kind].set_index(keys).value
        assert set(found.index.get_level_values("snapshot")) == {"final"}
        pd.testing.assert_series_equal(found, expected.loc[found.index], rtol=1e-3)


def test_the_published_runs_are_measured_at_every_snapshot(measured):
    table = pd.read_parquet(measured[0] / "results" / "metrics.parquet").query("recipe == 'erdos' and metric == 'fvu'")
    assert len(table) == len(LAYERS) * 3 and table.value.notna().all()


def test_a_card_says_who_made_it_and_only_what_is_known(measured):
    (folder,) = measured[0].glob("models/sae/small-neox_resid1_exp4_3k_erdos")
    card = (folder / "model_card.md").read_text()
    assert "- Published by others: local erdos, format erdos." in card
    assert "- Tokens Processed: 3,000 (2,944 by its own count)" in card
    assert "- L1 Coefficient: 0.0003, in a convention that is not stated by its source" in card
    assert "- Batch Size: not stated by its source" in card
    assert "dataset_path" not in read_json(folder / "cfg.json")["metadata"]
    sae, pair = sae_atlas.load_sae(folder), folder / "cfg.json"
    assert sae.d_sae == 128 and read_json(pair)["metadata"]["published"]["format"] == "erdos"


def test_a_second_run_does_nothing_and_one_file_more_is_measured_alone(measured):
    folder, config = measured
    assert "Nothing to be done" in snakemake(folder, config, *TARGETS).stdout
    config = small(**{"recipes": dict(config["recipes"]), "activations.layers": list(LAYERS)})
    config["recipes"]["more"] = config["recipes"]["saelens"]
    jobs = kinds(planned(folder, config))
    assert (jobs["import"], jobs["evaluate"], jobs["model card"], "train" in jobs) == (2, 2, 2, False)


def test_an_edited_sae_is_measured_again_and_a_touched_one_is_not(measured):
    """It was taken over again by its time, and the measurements of the old one were kept beside it."""
    folder, config = measured
    release = Path(config["recipes"]["saelens"]["pretrained"]["path"])
    weights = release / "layer_1" / "sae_weights.safetensors"
    before = weights.read_bytes()
    weights.touch()
    assert planned(folder, config, *TARGETS) == []
    try:
        tensors = load_file(weights)
        save_file(tensors | {"b_dec": tensors["b_dec"] + 1}, weights)
        jobs = planned(folder, config, *TARGETS)
        assert [job for job in jobs if job.startswith("import")] == ["import: saelens, layer 01, 3k tokens"]
        assert [job for job in jobs if job.startswith("evaluate")] == ["evaluate: saelens, layer 01"]
        weights.unlink()
        assert planned(folder, config, *TARGETS) == []  # what was made of it is there
    finally:
        weights.write_bytes(before)
    assert planned(folder, config, *TARGETS) == []


def test_a_file_that_is_not_there_is_refused_before_any_job(measured, tmp_path):
    _, config = measured
    recipe = config["recipes"]["saelens"]
    recipe = recipe | {"pretrained": recipe["pretrained"] | {"file": "layer_{layer}{snapshot}"}}
    config = small(**{"recipes": {"theirs": recipe}, "activations.layers": [1]})
    done = snakemake(tmp_path, config, "--dry-run", check=False)
    assert done.returncode != 0 and "Traceback" not in done.stdout and "Job 0" not in done.stdout
    assert "recipes.theirs.pretrained" in done.stdout and "cfg.json is not there; check" in done.stdout


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"expansion": 8}, "its expansion is 4.0, the config's 8"),
        ({"k": 5}, "its k is 4, the config's 5"),
        ({"architecture": "relu", "k": None}, "its architecture is topk, the config's relu"),
    ],
)
def test_what_disagrees_with_the_config_is_one_line(measured, tmp_path, change, words):
    _, config = measured
    recipe = config["recipes"]["saelens"] | change
    recipe = {key: value for key, value in recipe.items() if value is not None}
    config = small(**{"recipes": {"theirs": recipe}, "activations.layers": [1]})
    target = "results/checkpoints/theirs/sae_layer01_3k.pt"
    done = snakemake(take(measured[0], tmp_path, "base_model"), config, target, check=False)
    assert done.returncode != 0 and words in done.stdout and "Traceback" not in done.stdout


def test_the_wrong_layer_and_another_model_are_noticed(measured, tmp_path):
    _, config = measured
    recipe = config["recipes"]["erdos"]
    folder = tmp_path / "release"
    shutil.copytree(recipe["pretrained"]["path"], folder)
    shutil.copy(folder / "sae_layer00_final.pt", folder / "sae_layer01_final.pt")
    config = small(**{"recipes": {"theirs": recipe}, "activations.layers": [0, 1]})
    config["recipes"]["theirs"] = recipe | {"pretrained": recipe["pretrained"] | {"path": str(folder)}}
    target = "results/checkpoints/theirs/sae_layer01_3k.pt"
    take(measured[0], tmp_path, "base_model")
    assert "its layer is 0, the config's 1" in snakemake(tmp_path, config, target, check=False).stdout
    config["base_model"]["name"] = "other"
    target = "results/checkpoints/theirs/sae_layer00_3k.pt"
    assert "says it is of someone/small-neox, the config's" in snakemake(tmp_path, config, target, check=False).stdout


def test_saes_on_the_hub_are_fetched(measured, tmp_path, monkeypatch):
    _, config = measured
    recipes = {}
    with serve() as hub:
        point_at(hub, tmp_path / "home", monkeypatch)
        for kind in ("saelens", "erdos"):
            pretrained = dict(config["recipes"][kind]["pretrained"])
            release = Path(pretrained.pop("path"))
            for path in release.rglob("*.*"):
                if path.is_file():
                    hub.files[str(path.relative_to(release))] = path.read_bytes()
            pretrained |= {"source": "hub", "id": "someone/their-saes"}
            recipes[kind] = config["recipes"][kind] | {"pretrained": pretrained}
        config = small(**{"recipes": recipes, "activations.layers": [1]})
        targets = [f"results/checkpoints/{kind}/sae_layer01_3k.pt" for kind in recipes]
        snakemake(take(measured[0], tmp_path, "base_model"), config, *targets)
        for kind in recipes:
            ours = measured[0] / "results" / "checkpoints" / kind / "sae_layer01_3k.pt"
            fetched = load_checkpoint(tmp_path / "results" / "checkpoints" / kind / "sae_layer01_3k.pt")["model_state"]
            for name, tensor in load_checkpoint(ours)["model_state"].items():
                assert torch.equal(fetched[name], tensor)
        config["recipes"]["erdos"]["pretrained"]["file"] = "none{layer}.pt"
        done = snakemake(tmp_path, config, targets[1], check=False)
    assert "none1.pt of someone/their-saes at main cannot be had from the hub" in done.stdout
    assert "Traceback" not in done.stdout


GOOD = {"architecture": "topk", "expansion": 4, "k": 4, "pretrained": {"source": "hub", "format": "erdos", "id": "a/b"}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"learning_rate": 1}, "recipes.r.learning_rate: does nothing with `pretrained`"),
        ({"k": None}, "recipes.r.k: None does not fit"),
        ({"pretrained": {"source": "hup", "format": "erdos"}}, "source: 'hup' is not allowed; did you mean `hub`"),
        ({"pretrained": {"source": "hub", "format": "saelans", "id": "a"}}, "did you mean `saelens`"),
        ({"pretrained": {"source": "hub", "format": "saelens", "id": "a"}}, "file: missing; format `saelens` needs it"),
        (
            {"pretrained": {"source": "hub", "format": "gemma_scope", "id": "a"}},
            "such as layer_{layer}/width_16k/average_l0_71/params.npz",
        ),
        ({"pretrained": {"source": "hub", "format": "erdos"}}, "pretrained.id: missing; source `hub` needs it"),
        ({"pretrained": GOOD["pretrained"] | {"path": "x"}}, "path: does nothing with source `hub`"),
        ({"pretrained": GOOD["pretrained"] | {"file": "a{lyer}"}}, "in braces it may hold layer"),
        ({"pretrained": GOOD["pretrained"] | {"file": "a"}}, "names the same SAE for every layer"),
        ({"pretrained": {"source": "local", "format": "erdos", "path": "/none"}}, "is no folder here"),
    ],
)
def test_mistakes_in_the_config_are_told(change, words):
    with pytest.raises(AtlasError) as error:
        complete_recipe(GOOD | change, "recipes.r")
    assert words in str(error.value)


def test_the_usual_file_is_the_default():
    assert complete_recipe(GOOD, "recipes.r")["pretrained"]["file"] == "sae_layer{layer:02d}_{snapshot}.pt"
