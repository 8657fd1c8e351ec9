"""Every mistake in a config is one line with its key and the remedy, and all are told at once."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import saved
import yaml
from config_tables import README, with_tables

from benchmarks import controller
from sae_atlas.config.read import complete_config
from sae_atlas.config.sections import Config
from sae_atlas.io.errors import AtlasError
from sae_atlas.stages import STAGES
from workflow import ROOT, small


def problems(config: dict) -> list[str]:
    with pytest.raises(AtlasError) as caught:
        complete_config(config, "config.yaml")
    return str(caught.value).splitlines()


@pytest.mark.parametrize("file", sorted((ROOT / "config").glob("*.yaml")), ids=lambda file: file.stem)
def test_worked_configs_are_right(file, tmp_path, monkeypatch):
    saved.beside_the_example(tmp_path)
    monkeypatch.chdir(tmp_path)
    complete_config(yaml.safe_load(file.read_text()), file.name)


def test_the_sister_runs_in_the_default_are_right_once_their_marks_are_taken_away():
    text = (ROOT / "config/config.yaml").read_text().replace("#  ", "  ")
    config = yaml.safe_load(text)
    complete_config(config, "config.yaml")
    assert list(config["recipes"]) == ["batchtopk-32", "topk-32", "l1-adaptive"]
    default, topk = (config["recipes"][name] for name in ("batchtopk-32", "topk-32"))
    assert default | {"architecture": "topk"} == topk
    sister = config["recipes"]["l1-adaptive"]
    start = sister.pop("l1")["coefficient"]
    assert (sister, start) == (controller.RECIPE, controller.COEFFICIENT)  # what is measured is what is recommended


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("recipes.topk.expantion", 8, "recipes.topk.expantion: no such key; did you mean `expansion`?"),
        ("corpus.contex", 8, "corpus.contex: no such key; did you mean `context`?"),
        (
            "recipes.topk.k",
            129,
            "recipes.topk.k: 129 is more than the 128 latents (4 x 32); lower it or raise expansion",
        ),
        (
            "recipes.topk.auxk",
            {"latents": 129},
            "recipes.topk.auxk.latents: 129 is more than the 128 latents (4 x 32); lower it or raise expansion",
        ),
        (
            "recipes.l1.l1",
            {"target_l0": 128.5},
            "recipes.l1.l1.target_l0: 128.5 is more than the 128 latents (4 x 32); lower it or raise expansion",
        ),
        (
            "recipes.topk",
            {"architecture": "jumprelu", "expansion": 2, "batch": 16, "jumprelu": {"target_l0": 65}},
            "recipes.topk.jumprelu.target_l0: 65 is more than the 64 latents (2 x 32)",
        ),
        (
            "recipes.topk",
            {"architecture": "matryoshka", "expansion": 4, "batch": 16, "groups": [0.001, 0.999]},
            "recipes.topk.groups: one of them has none of the 128 latents (4 x 32); write larger fractions",
        ),
        ("trainning", {}, "trainning: no such key; did you mean `training`?"),
        ("recipes.topk.architecture", "tpok", "recipes.topk.architecture: 'tpok' is not allowed; did you mean `topk`?"),
        ("base_model.source", "pakage", "base_model.source: 'pakage' is not allowed; did you mean `package`?"),
        ("base_model.path", "x", "base_model.path: does nothing with source `random`; remove it"),
        (
            "base_model",
            {"name": "torso", "source": "restoration"},
            "base_model.path: missing; source `restoration` needs it",
        ),
        *(
            ("corpus.context", value, f"corpus.context: {value!r} does not fit; write a whole number from 1 to 1048576")
            for value in ("many", 0, 9.5, True, [8])
        ),
        ("corpus.context", 7, "corpus.context: 7 is less than 8, the least for text; raise it"),
        ("training", [1], "training: [1] does not fit; it has the keys `tokens`, `snapshots`, "),
        ("recipes", {}, "recipes: {} does not fit; write a section of recipes by name"),
        ("recipes.a b", {"architecture": "topk"}, "recipes: 'a b' does not fit as a name; write at most 80 letters"),
        (
            "recipes.topk.batch",
            1001,
            "recipes.topk.batch: 1001 is more than the 1000 tokens of the shortest window between snapshots; lower it",
        ),
        (
            "base_model.sizes.vocab_size",
            120,
            "base_model.sizes.vocab_size: 120 is less than the 257 ids of its tokenizer; leave it out or raise it",
        ),
        (
            "recipes.TopK",
            {"architecture": "topk", "expansion": 4, "batch": 16, "k": 4},
            "recipes: 'topk' and 'TopK' are one folder where case is ignored (macOS); rename one",
        ),
        (
            "floors",
            {"widths": [8, 8]},
            "floors.widths: [8, 8] does not fit; write a list of whole numbers from 1, each once",
        ),
        ("training.snapshots", ["2k", "1k"], "training.snapshots: not ascending"),
        ("training.device", "gpu", "training.device: 'gpu' is not allowed; "),
        (
            "training",
            {"tokens": "3k", "device": "cpu", "gpu_products": "float32"},
            "training.gpu_products: does nothing with device `cpu`; remove it",
        ),
        ("base_model.device_map", "disk", "base_model.device_map: 'disk' is not allowed"),
        ("training.snapshots", ["3k"], "training.snapshots: 3000 is not below training.tokens (3000)"),
        ("training.tokens", "9k", "training.tokens: 9000 is beyond the corpus (8000)"),
        ("activations.layers", [0, 4], "activations.layers: no layer 4; small-neox has layers 0 to 3"),
        ("activations.layers", "2-1", "activations.layers: '2-1' names no layer"),
        ("activations.site", "resid_pots", "activations.site: no site 'resid_pots'; did you mean `resid_post`?"),
        ("activations.max_live_stores", 2, "activations.max_live_stores: one pass alone makes 3 stores"),
        (
            "activations",
            {"dtype": "bitround", "keep_bits": 4, "compression": "zstd"},
            "activations: dtype `bitround` and keep_bits are no more; write dtype int8, as small and read three times faster",
        ),
        ("activations.dtype", "int4", "activations.dtype: 'int4' is not allowed; did you mean `int8`?"),
        ("activations.shard_rows", 1000, "activations.shard_rows: 1000 is not a multiple of chunk_rows (256)"),
        ("evaluation.tokens", "9k", "evaluation.tokens: 9000 is more than corpus.held_out_tokens (2000)"),
        ("evaluation.patched_tokens", "2k", "evaluation.patched_tokens: more than evaluation.tokens (1000)"),
        (
            "recipes.topk.learning_rate",
            "fast",
            "recipes.topk.learning_rate: 'fast' does not fit; write a number above 0",
        ),
        ("recipes.topk.l1", {"coefficient": 1.0}, "recipes.topk.l1: does nothing with architecture `topk`; remove it"),
        (
            "features",
            {"split": "held_out", "tokens": "1k"},
            "features.tokens: does nothing with split `held_out`, which reads evaluation.tokens; remove it",
        ),
        ("features", {"tokens": "9k"}, "features.tokens: 9000 is beyond the corpus (8000)"),
        ("features", {"layers": [1, 3]}, "features.layers: layer 3 is not among activations.layers"),
        ("features", {"layers": "2-1"}, "features.layers: '2-1' names no layer"),
        ("features", {"context": 5}, "features.context: no such key; did you mean `contexts`?"),
        ("figures.colour_map", "rainbow", "figures.colour_map: 'rainbow' is not allowed"),
        ("release.licence", 3, "release.licence: 3 does not fit"),
    ],
)
def test_one_line_with_key_and_remedy(key, value, line):
    found = problems(small(**{key: value}))
    assert len(found) == 1
    assert found[0].startswith(f"config.yaml: {line}")


def test_missing_keys_say_what_they_are():
    config = small()
    del config["corpus"]["tokens"], config["training"]
    assert problems(config) == [
        "config.yaml: corpus.tokens: missing; train tokens that the corpus holds",
        "config.yaml: training: missing; how long every recipe trains and where its snapshots lie",
    ]


def test_all_problems_at_once():
    found = problems(small(**{"corpus.contex": 1, "recipes.topk.k": 0, "activations.seed": -1, "figures.color": "x"}))
    assert len(found) >= 3


def test_contradictions_are_told_together_with_each_other():
    found = problems(small(**{"training.snapshots": ["2k", "1k"], "recipes.topk.k": 0, "activations.site": "nowhere"}))
    assert [line.split(":")[1].strip() for line in found] == [
        "recipes.topk.k",
        "training.snapshots",
        "activations.site",
    ]


def test_the_tables_of_the_readme_are_those_of_the_sections():
    page = README.read_text(encoding="utf-8")
    assert with_tables(page) == page, "run `make tables`"
    shown = set(re.findall(r"<!-- keys of (\S+) -->", page))
    assert shown >= set(Config.model_fields)


def test_the_json_schema_says_what_the_sections_say():
    schema = jsonschema.Draft202012Validator(Config.model_json_schema())
    for file in (ROOT / "config").glob("*.yaml"):
        assert not list(schema.iter_errors(yaml.safe_load(file.read_text()))), file
    for wrong in ({"corpus.context": 0}, {"base_model.source": "pakage"}, {"recipes.topk.bach": 8}, {"floors": {}}):
        assert list(schema.iter_errors(small(**wrong))), wrong


def modules(file: Path) -> set[Path]:
    """Files of the library that a file imports; packages among them run first."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    assert not any(name.startswith("pydantic") for name in names), file
    paths = [ROOT.joinpath(*name.split(".")) for name in names if name.startswith("sae_atlas.")]
    packages = {folder / "__init__.py" for path in paths for folder in (path, *path.parents)}
    return {file for file in packages | {path.with_suffix(".py") for path in paths} if file.is_file()}


def test_jobs_need_no_pydantic():
    runs = {each for stage in STAGES.values() for each in (stage.runs, stage.on_rows) if each}
    functions = {each.partition(":")[0].replace(".", "/") for each in runs}
    waiting = {ROOT / "sae_atlas" / f"{module}.py" for module in functions}
    waiting, seen = waiting.union((ROOT / "workflow" / "scripts").glob("*.py")), set()
    while waiting:
        seen |= waiting
        waiting = set().union(*map(modules, waiting)) - seen
    assert {ROOT / "sae_atlas" / "config" / f"{name}.py" for name in ("own_models", "published")} < seen
    assert len(seen) > 100


def test_the_command_works_where_only_the_library_is(tmp_path):
    (tmp_path / "sae_atlas").symlink_to(ROOT / "sae_atlas")
    shutil.copy(ROOT / "config" / "tiny-neox.yaml", tmp_path)
    for command, said in (
        ("check", "is right"),
        ("sites", "layers 0 to 23"),
        ("plan", "train_sae"),
        ("schema", "$defs"),
    ):
        file = ["tiny-neox.yaml"] * (command != "schema")
        done = subprocess.run(
            [sys.executable, "-m", "sae_atlas", command, *file],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert said in done.stdout and not done.returncode, done.stderr


ENDPOINT = {"url": "https://api.example.org/v1", "model": "small", "key_variable": "NAMING_KEY"}


def endpoint_problems(**changes) -> list[str]:
    return problems(small(**{"features.names": {"endpoint": {**ENDPOINT, **changes}}}))


def test_a_key_in_the_config_is_refused_and_not_repeated():
    for key in ("sk-0123456789abcdef", "0123456789abcdef", "abcdefSECRET", 12):
        (found,) = endpoint_problems(key_variable=key)
        assert "what it holds does not fit; write capital letters, digits and underscores" in found
        assert "name of the environment variable that holds the key" in found and str(key) not in found
    assert "no such key" in endpoint_problems(api_key="x")[0]


@pytest.mark.parametrize("url", ["https://user:secret@host/v1", "ftp://host", "https://host/v1?key=secret", "hosts"])
def test_an_endpoint_is_an_address_without_secrets(url):
    (found,) = endpoint_problems(url=url)
    assert found.startswith("config.yaml: features.names.endpoint.url: what it holds does not fit") and url not in found


def test_a_key_is_sent_encrypted_or_to_this_machine():
    assert "would get the key unencrypted; use https" in endpoint_problems(url="http://api.example.org/v1")[0]
    for fine in ({}, {"url": "http://127.0.0.1:8000/v1"}, {"url": "http://localhost/v1"}):
        complete_config(small(**{"features.names": {"endpoint": {**ENDPOINT, **fine}}}), "config.yaml")


def test_a_device_map_for_the_cpu_alone_or_for_an_adapter_is_refused():
    assert problems(small(**{"base_model.device_map": "auto", "training.device": "cpu"})) == [
        "config.yaml: base_model.device_map: takes the GPUs that there are, training.device is `cpu`; remove one of them"
    ]
    tuned = yaml.safe_load((ROOT / "config/lifecycle.yaml").read_text())
    tuned["base_model"] |= {"source": "lora", "name": "gpt2-0.8M-wikipedia-to-biology-lora", "device_map": "auto"}
    assert "an adapter is put on whole models only" in problems(tuned)[0]


def test_a_model_that_predicts_no_next_token_is_not_tuned():
    tuned = yaml.safe_load((ROOT / "config/lifecycle.yaml").read_text())
    tuned["base_model"]["base"] = {"name": "torso", "source": "restoration", "path": "model.pt"}
    assert [line.split(": ")[1] for line in problems(tuned)] == ["base_model.base.source"]


def test_students_of_a_model_that_predicts_no_next_token_are_refused():
    config = small(
        **{
            "base_model": {"name": "torso", "source": "restoration", "path": "model.pt"},
            "floors": {"widths": [8], "students": {"steps": 20}},
        }
    )
    assert [line.split(": ")[1] for line in problems(config)] == ["floors.students"]
