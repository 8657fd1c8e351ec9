"""Activations saved elsewhere: what is read of every format, what is refused, in which order, and how latents are named."""

import re

import numpy as np
import pytest
import saved
import torch
import yaml
import zarr

from sae_atlas.config.read import complete_config
from sae_atlas.corpus import open_corpus
from sae_atlas.features.name_patterns import Window
from sae_atlas.features.row_namer import SharedFrequency, shared_name
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import write_json
from sae_atlas.own_arrays.files import files_of, find_layers
from sae_atlas.own_arrays.read import InOrder, open_array
from sae_atlas.plan.site_check import check_config
from sae_atlas.row_corpus import number_rows
from sae_atlas.stages.atlas import Atlas
from sae_atlas.stages.contents import local_contents
from workflow import ROOT

X = saved.planted(3)
CHOSEN = np.random.default_rng(1).permutation(saved.ROWS)[:300]


@pytest.mark.parametrize("name", saved.FORMATS)
def test_every_format_gives_the_same_rows(tmp_path, name):
    write, error = saved.FORMATS[name]
    path = write(tmp_path, X)
    place = find_layers(path)[3]
    array = open_array(place)
    assert array.shape == X.shape and all(file.is_file() for file in files_of(place).values())
    rows = array.read(CHOSEN, 3)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, X[CHOSEN], rtol=0, atol=error)
    in_order = InOrder(array, CHOSEN, 3)
    in_order.size = 70  # rows in memory at once
    parts = [in_order[first : first + 128] for first in range(0, len(in_order), 128)]
    np.testing.assert_array_equal(np.concatenate(parts), rows)


def test_layers_are_those_whose_files_are_there(tmp_path, monkeypatch):
    saved.write(tmp_path)
    np.save(tmp_path / "acts" / "layer7.npy", X)
    (tmp_path / "acts" / "layer7.npy.txt").touch()
    monkeypatch.chdir(tmp_path)
    assert complete_config(saved.config(), "c.yaml")["activations"]["layers"] == [2, 5, 7]
    assert complete_config(saved.config(**{"activations.layers": "5-5"}), "c.yaml")["activations"]["layers"] == [5]
    assert list(find_layers(saved.write_safetensors(tmp_path, X))) == [3, 10]
    assert list(find_layers(str(tmp_path / "acts" / "layer7.npy"))) == [0]


def test_a_path_with_a_layer_is_seen_from_the_configs_folder(tmp_path, monkeypatch):
    saved.write(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    complete = complete_config(saved.config(), "elsewhere/c.yaml")
    assert complete["base_model"]["path"] == "elsewhere/acts/layer{layer}.npy"


def refused(config: dict) -> str:
    with pytest.raises(AtlasError) as caught:
        check_config(complete_config(config, "c.yaml"), "c.yaml")
    (line,) = str(caught.value).splitlines()
    return line


SECTIONS = {
    "text": (
        {"corpus.source": "local", "corpus.context": 32, "evaluation.tokens": 2000, "corpus.held_out_tokens": 2000},
        "corpus.source: 'local' is text, which no model reads",
    ),
    "site": ({"activations.site": "mlp_out"}, "activations.site: does nothing with saved activations"),
    "target": ({"activations.target": "mlp_out"}, "activations.target: transcoders need a model that gives both sites"),
    "dtype": ({"base_model.dtype": "bfloat16"}, "base_model.dtype: does nothing with saved activations"),
    "losses": ({"evaluation.patched_tokens": 10}, "evaluation.patched_tokens: does nothing with saved activations"),
    "students": (
        {"floors": {"widths": [8], "students": {"steps": 10}}},
        "floors.students: learn from a base model's predictions",
    ),
    "endpoint": (
        {"features.names": {"endpoint": {"url": "https://x.org/v1", "model": "m"}}},
        "features.names.endpoint: names what language models read",
    ),
    "finetune": (
        {"recipes.topk.finetune": {"loss": "kl", "tokens": 200}},
        "recipes.topk.finetune: needs the loss of a model",
    ),
    "exclude": ({"corpus.exclude": ["special"]}, "corpus.exclude: does nothing with source `rows`; remove it"),
    "layers": ({"activations.layers": [2, 3, 5]}, "activations.layers: no layer 3; toy-vit has layers 2, 5"),
    "path": ({"base_model.path": "acts/x{layer}.npy"}, "base_model.path: nothing lies at acts/x{layer}.npy"),
    "one": ({"base_model.path": "acts/none.npy"}, "base_model.path: acts/none.npy is not there"),
    "kind": ({"base_model.path": "acts/rows.csv"}, "base_model.path: acts/rows.csv is none of `.npy`"),
    "many": ({"corpus.tokens": 3401}, "corpus.tokens: 3401 rows and 200 held-out ones"),
    "contexts": ({"corpus.context": 7}, "corpus.context: 3600 rows are no whole number of contexts of 7"),
    "field": ({"corpus.field": "title"}, "corpus.field: no column 'title'; there is id, caption"),
    "width": ({"recipes.topk.k": 13}, "recipes.topk.k: 13 is more than the 12 latents (1 x 12)"),
}


@pytest.mark.parametrize("name", SECTIONS)
def test_what_cannot_be_is_one_line_before_any_job(tmp_path, monkeypatch, name):
    saved.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    changes, line = SECTIONS[name]
    assert line in refused(saved.config(**changes))


def test_rows_are_those_of_saved_activations(tmp_path, monkeypatch):
    saved.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    model = {"name": "m", "source": "package", "package": "smollm2-135m-instruct"}
    assert "corpus.source: `rows` are those of saved activations" in refused(saved.config(base_model=model))


def cut(x):
    return x[:-1]


def narrow(x):
    return x[:, :-1]


def three(x):
    return x[None]


def whole(x):
    return x.astype(np.int32)


def nan(x):
    return np.where(np.arange(len(x))[:, None] == 3590, np.nan, x)


def beyond(x):
    return x.astype(np.float64) * np.where(np.arange(len(x))[:, None] == 3, 1e60, 1)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (cut, "layer 5 has 3599 rows, layer 2 3600"),
        (narrow, "layer 5 has 11 dimensions, layer 2 12"),
        (three, "layer05.npy has the shape [1, 3600, 12]; save [rows, d]"),
        (whole, "layer05.npy holds int32; save one of float16, bfloat16"),
        (nan, "layer05.npy: row 3590 of layer 5 holds NaN or infinity"),
        (beyond, "layer05.npy: row 3 of layer 5 holds NaN or infinity"),
    ],
)
def test_arrays_that_do_not_fit_are_one_line_before_any_job(tmp_path, monkeypatch, change, line):
    acts = saved.write(tmp_path)
    np.save(acts / "layer05.npy", change(saved.planted(5)))
    monkeypatch.chdir(tmp_path)
    found = refused(saved.config())
    assert found.startswith("c.yaml: base_model.path: ") and line in found


def test_another_number_of_texts_is_one_line_before_any_job(tmp_path, monkeypatch):
    acts = saved.write(tmp_path)
    with (acts / "rows.csv").open("a", encoding="utf-8") as file:
        file.write("3600,one more\n")
    monkeypatch.chdir(tmp_path)
    assert "corpus.path: holds 3601 texts for 3600 rows of activations" in refused(saved.config())


def test_damaged_files_are_one_line(tmp_path):
    for name in ("a1.npy", "a1.safetensors", "a1.parquet"):
        (tmp_path / name).write_bytes(b"no array at all")
        with pytest.raises(AtlasError, match=r"base_model\.path: .* cannot be read \(.*\); save it again"):
            open_array(find_layers(f"{tmp_path}/a{{layer}}{name[2:]}")[1])
    array = zarr.create_array(tmp_path / "a1.zarr", shape=X.shape, dtype=X.dtype, chunks=(100, 12))
    array[:] = X
    (tmp_path / "a1.zarr" / "c" / "4" / "0").unlink()
    with pytest.raises(AtlasError, match="lacks 1 of its 36 chunks, which Zarr reads as zeros"):
        open_array(find_layers(f"{tmp_path}/a{{layer}}.zarr")[1])


def test_two_files_of_a_layer_and_names_of_no_layer_are_refused(tmp_path):
    for name in ("a3.npy", "a03.npy"):
        np.save(tmp_path / name, X)
    with pytest.raises(AtlasError, match="are both of layer 3; keep one of them"):
        find_layers(f"{tmp_path}/a{{layer}}.npy")
    group = zarr.create_group(tmp_path / "g.zarr")
    for name in ("block3.fc1", "block3.fc2"):
        group.create_array(name, shape=(2, 2), dtype="float32")
    with pytest.raises(AtlasError, match=r"'block3\.fc1' holds 2 numbers; name arrays by layer"):
        find_layers(f"{tmp_path}/g.zarr")


# --- the corpus -------------------------------------------------------------------------------------------------------


def corpus_of(folder, **sizes):
    write_json(folder / "provenance.json", {"rows": 60})
    settings = {"context": 4, "train_tokens": 30, "held_out_tokens": 10, "seed": 0} | sizes
    number_rows(folder / "provenance.json", folder / "corpus.zarr", {"source": "rows"}, **settings)
    return open_corpus(folder / "corpus.zarr")


def test_contexts_are_neighbours_in_a_seeded_order_and_held_out_ones_apart(tmp_path):
    corpus = corpus_of(tmp_path)
    ids = corpus.tokens[:].astype(int)
    assert corpus.held_out == 3 and ids.shape == (3 + 8, 4) and corpus.mask[:].all()
    assert (np.diff(ids, axis=1) == 1).all() and (ids[:, 0] % 4 == 0).all()
    assert len(np.unique(ids)) == ids.size and (np.diff(ids[:, 0]) < 0).any()
    np.testing.assert_array_equal(corpus.documents(range(11)), np.repeat(ids[:, :1] // 4, 4, axis=1))
    assert corpus.window(0, 16) == range(3, 7) and corpus.held_out_rows(5) == range(2)
    assert list(corpus.topics()[[0, 14]]) == [None, None]
    np.testing.assert_array_equal(corpus_of(tmp_path, seed=0).tokens[:], ids)
    assert (corpus_of(tmp_path, seed=1).tokens[:] != ids).any()


# --- identities -------------------------------------------------------------------------------------------------------


def test_a_changed_file_is_another_identity_of_its_layer_alone(tmp_path, monkeypatch):
    acts = saved.write(tmp_path)
    monkeypatch.chdir(tmp_path)

    def identities() -> dict:
        config = complete_config(saved.config(), "c.yaml")
        atlas = Atlas(config, contents=local_contents(config, "c.yaml", [], tmp_path / "contents.json"))
        cells = {(stage, layer): {"recipe": "topk", "layer": layer} for stage in STAGES for layer in saved.LAYERS}
        found = {key: atlas.identity(key[0], **cell) for key, cell in cells.items()}
        return found | {("tokenize", None): atlas.identity("tokenize"), ("explorer", None): atlas.identity("explorer")}

    STAGES = ("evaluate_sae", "model_card", "top_contexts", "evolution", "name_latents")
    before = identities()
    np.save(acts / "layer02.npy", saved.planted(2) * 2)
    changed = identities()
    moved = {key for key, value in changed.items() if value != before[key]}
    # What a latent was matched with in the layer beside belongs to it.
    assert moved == {(stage, 2) for stage in STAGES} | {("evolution", 5), ("explorer", None)}
    (acts / "rows.csv").write_text(
        (acts / "rows.csv").read_text(encoding="utf-8").upper().replace("CAPTION", "caption")
    )
    renamed = identities()
    moved = {key for key, value in renamed.items() if value != changed[key]}
    assert moved == {("name_latents", 2), ("name_latents", 5), ("explorer", None)}


# --- names ------------------------------------------------------------------------------------------------------------


def named(rows: list[str], peaks: list[str]):
    base = SharedFrequency([Window((row,), None) for row in rows])
    return shared_name([Window((peak,), None, 0, 1.0) for peak in peaks], base)


def test_rows_are_named_by_what_they_share_beyond_chance():
    rows = [f"a picture of a {word} and a {other}" for word in saved.WORDS for other in saved.WORDS] * 3
    herons = [f"A picture of a heron and a {other}" for other in saved.WORDS]
    found = named(rows, herons)
    assert str(found.rule) == found.name == "“heron”" and found.confidence > 0.8
    assert found.rule.anywhere(Window(("a cat", "The HERON"), None))
    assert not found.rule.anywhere(Window(("herons",), None))
    assert named(rows, rows[::9]) is None  # all have `picture`, as every row has
    assert named(rows, herons[:1]) is None  # one row alone


def test_a_class_is_named_whole():
    rows = ["golden retriever"] * 5 + ["tench"] * 95
    assert named(rows, rows[:5]).name == "“golden retriever”"


# --- what the docs show -----------------------------------------------------------------------------------------------

DOCS = (ROOT / "docs" / "own-activations.md").read_text(encoding="utf-8")


def test_the_docs_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save, train = (
        block.replace("60_000", "6_000").replace("5_000", "500")
        for block in re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
    )
    generator = np.random.default_rng(0)

    def batch(first: int, count: int) -> tuple[list[str], dict]:
        features = generator.random((count, 8)) < 0.2
        spread = np.random.default_rng(1).standard_normal((8, 64))
        return [f'row {first + i}, "a"' for i in range(count)], {n: features @ spread for n in (3, 7)}

    exec(save, {"batch": batch})
    ours = {}
    exec(train, ours)
    assert 0 < ours["fvu"] < 0.8 and ours["rows"].shape == (10,)
    assert torch.isfinite(ours["latents"]).all()
    (shown,) = re.findall(r"```yaml\n(.*?)```", DOCS, re.DOTALL)
    shown = shown.replace("55k", "5k").replace("5k}", "500}")
    rest = {"training": {"tokens": 2000}, "recipes": {"topk": {"architecture": "topk", "preset": "quick"}}}
    evaluated = {"evaluation": {"tokens": 500}}
    check_config(complete_config(yaml.safe_load(shown) | rest | evaluated, "c.yaml"), "c.yaml")
