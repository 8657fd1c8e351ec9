"""What is published says what was measured, holds the weights that were measured, and cannot be broken by a name."""

import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
import yaml
import zarr
from tables import metric_rows

from sae_atlas.cards.markdown import code, escape, number
from sae_atlas.cards.model_card import write_model_card
from sae_atlas.cards.names import parse_sae_name, release_name, sae_name
from sae_atlas.cards.release import write_release
from sae_atlas.cards.weights import sha256
from sae_atlas.errors import AtlasError
from sae_atlas.figures.shown import name_of
from sae_atlas.files import read_json, write_json
from sae_atlas.plan.config import check_config
from sae_atlas.provenance import make_record
from sae_atlas.saes import checkpoint as checkpoints
from sae_atlas.saes.sae import Sae
from sae_atlas.training.recipe import Recipe
from workflow import ROOT, small

LAYERS, SNAPSHOTS, D_IN = (0, 1), {"1k": 1000, "final": 2000}, 8
RECIPES = {
    "topk": {"architecture": "topk", "expansion": 4, "k": 3},
    "fixed": {"architecture": "relu", "expansion": 4, "l1": {"coefficient": 3e-4, "convention": "mean-sum"}},
    "adaptive": {"architecture": "relu", "expansion": 4, "l1": {"coefficient": 5e-4, "target_l0": 6}},
    "jumprelu": {"architecture": "jumprelu", "expansion": 4},
}
DAY = datetime(2026, 3, 14, 15, 9, tzinfo=UTC).timestamp()


class Run:
    """A finished run of one recipe: real checkpoints of random weights, made-up metrics."""

    def __init__(self, folder: Path, recipe: str = "topk", base: str = "base-1b", source: str = "hub owner/base-1b"):
        self.folder, self.recipe, self.base = folder, recipe, base
        self.values = Recipe.from_dict(RECIPES[recipe]).to_dict()
        self.model = make_record("prepare_model", {"source": source}, "0", {})
        self.corpus = make_record("tokenize", {"context": 128}, "0", {})
        provenance = {"source": source, "licence": "apache-2.0", "quantisation": None, "architecture": "llama"}
        write_json(folder / "provenance.json", provenance | {"n_layers": 2, "d_model": D_IN, "record": self.model})
        text = {"source": "package", "package": "wikipedia-introductions"}
        zarr.create_group(folder / "corpus.zarr", zarr_format=3).attrs.update(
            {"text": text, "held_out_tokens": 512, "record": self.corpus}
        )
        self.files = {layer: {name: self._checkpoint(layer, name) for name in SNAPSHOTS} for layer in LAYERS}
        self.evaluations = {layer: make_record("evaluate_sae", {"layer": layer}, "0", {}) for layer in LAYERS}
        self.metrics = {layer: self._measure(layer) for layer in LAYERS}
        for figure in ("1_training_curves", "2_metrics_heatmap"):
            (folder / f"{figure}.png").write_bytes(b"a picture")
        self.name = sae_name(base, "resid_post", 1, 4, SNAPSHOTS["final"], recipe)
        self.release = release_name(base, 4, recipe)

    def _checkpoint(self, layer: int, snapshot: str) -> Path:
        generator = torch.Generator().manual_seed(layer * 10 + SNAPSHOTS[snapshot])
        d_sae = 4 * D_IN
        weights = {
            "W_enc": torch.randn(d_sae, D_IN, generator=generator),
            "b_enc": torch.randn(d_sae, generator=generator),
            "W_dec": torch.randn(d_sae, D_IN, generator=generator),
            "b_dec": torch.randn(D_IN, generator=generator),
        }
        threshold = torch.rand(d_sae, generator=generator) if self.recipe == "jumprelu" else None
        config = {
            "recipe": self.values,
            "d_in": D_IN,
            "d_sae": d_sae,
            "tokens": SNAPSHOTS[snapshot],
            "normaliser": {"mean": torch.ones(D_IN), "scale": 0.5},
            "activations": {"base_model": {}, "site": "resid_post", "layer": layer},
            "record": make_record("train_sae", {"layer": layer, "snapshot": snapshot}, "0", {}),
        }
        stats = {"steps": 3, "trained_tokens": 1990, "loss": 0.25, "reconstruction": 0.21}
        if self.values["architecture"] == "relu":
            l1 = self.values["l1"]
            config["lambda"] = {
                "stated": l1["coefficient"],
                "convention": l1["convention"],
                "canonical": 0.0012 + layer,
            }
            config["lambda"]["last"] = 0.5
        if self.recipe == "adaptive":
            stats |= {"settled_l0": 7.5, "converged": False}
        path = self.folder / f"layer{layer}_{snapshot}.pt"
        folded = checkpoints.fold(weights, threshold, torch.ones(D_IN), 0.5)
        checkpoints.save(path, folded, config, stats)
        os.utime(path, (DAY, DAY))
        return path

    def _measure(self, layer: int) -> Path:
        rows = metric_rows(self.recipe, layer, len(LAYERS), list(SNAPSHOTS.values()), 4 * D_IN)
        measured = {}
        for name, path in self.files[layer].items():
            sae = Sae.load(path)
            config = {**sae.config, "normaliser": {"scale": 0.5}}
            measured[name] = {"sha256": sha256(path), "config": config, "stats": sae.stats}
        rows = [{key: None if value != value else value for key, value in row.items()} for row in rows]
        path = self.folder / f"layer{layer}.json"
        write_json(path, {"metrics": rows, "checkpoints": measured, "record": self.evaluations[layer]})
        return path

    @property
    def expects(self) -> dict:
        found = {"base_model": self.model["identity"], "corpus": self.corpus["identity"]}
        return found | {f"layer{layer:02d}": record["identity"] for layer, record in self.evaluations.items()}

    def card(self, **changes) -> Path:
        expects = {**self.expects, "metrics": self.evaluations[1]["identity"]}
        arguments = {
            "checkpoint": self.files[1]["final"],
            "metrics": self.metrics[1],
            "provenance": self.folder / "provenance.json",
            "corpus": self.folder / "corpus.zarr",
            "folder": self.folder / "models" / self.name,
            "name": self.name,
            "base": self.base,
            "text": "wikipedia-introductions",
            "author": "",
            "record": make_record("model_card", {}, "0", expects),
            "expects": expects,
        } | changes
        write_model_card(**arguments)
        return Path(arguments["folder"])

    def publish(self, **changes) -> Path:
        arguments = {
            "checkpoints": self.files,
            "metrics": self.metrics,
            "figures": sorted(self.folder.glob("*.png")),
            "provenance": self.folder / "provenance.json",
            "corpus": self.folder / "corpus.zarr",
            "readme": self.folder / "releases" / self.release / "README.md",
            "name": self.release,
            "base": self.base,
            "text": "wikipedia-introductions",
            "sisters": {release_name(self.base, 4, "fixed"): Recipe.from_dict(RECIPES["fixed"]).to_dict()},
            "config": small(),
            "licence": "apache-2.0",
            "author": "",
            "record": make_record("release", {}, "0", self.expects),
            "expects": self.expects,
        } | changes
        write_release(**arguments)
        return Path(arguments["readme"]).parent


# --- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("site", "spelled"),
    [
        ("resid_post", "resid12"),
        ("resid_pre", "residpre12"),
        ("resid_mid", "residmid12"),
        ("attn_out", "attn12"),
        ("mlp_out", "mlp12"),
    ],
)
@pytest.mark.parametrize("base", ["gpt2-small", "my_model_1.1", "SmolLM2-135M"])
def test_a_name_gives_back_its_parts(site, spelled, base):
    name = sae_name(base, site, 12, 32, 300_000_000, "l1-3e-4_v2")
    assert name == f"{base}_{spelled}_exp32_300M_l1-3e-4_v2"
    parts = parse_sae_name(name)
    assert (parts.base, parts.site, parts.layer) == (base, site, 12)
    assert (parts.expansion, parts.tokens, parts.recipe) == (32, 300_000_000, "l1-3e-4_v2")


def test_published_names_without_a_recipe_are_read_too():
    assert parse_sae_name("gpt2-small_mlp0_exp2_1M") == parse_sae_name("gpt2-small_mlp0_exp2_1000k")
    assert parse_sae_name("gpt2-small_mlp0_exp2_1M").recipe is None


def test_a_module_path_is_spelled_by_its_last_part():
    assert sae_name("m", "transformer.h.{layer}.attn.c_proj", 3, 8, 1000, "r") == "m_cproj3_exp8_1k_r"
    assert sae_name("m", "model.layers.{layer}", 3, 8, 1000, "r") == "m_layers3_exp8_1k_r"


def test_what_is_no_name_is_refused_with_an_example():
    with pytest.raises(AtlasError, match=r"gpt2-small_exp2_1M: no name of an SAE; .* for example"):
        parse_sae_name("gpt2-small_exp2_1M")


def test_release_names_are_the_published_ones():
    assert release_name("pythia-410m", 32, "l1-3e-4-fixed") == "pythia-410m-saes-x32-l1-3e-4-fixed"


# --- Markdown --------------------------------------------------------------------------------------------------------


def test_text_stays_text():
    assert escape("resid_post of my_model") == "resid_post of my_model"
    assert escape("a | b\n# c") == r"a \| b # c"
    assert escape("<script>*[x](y)`_z_") == r"\<script\>\*\[x\](y)\`\_z\_"
    assert code("a`b|c") == r"``a`b\|c``"


@pytest.mark.parametrize(
    ("value", "text"), [(1234567, "1,234,567"), (0.012345, "0.01235"), (3e-5, "3e-05"), (12345.6, "12,346"), (0.0, "0")]
)
def test_numbers_read_as_people_write_them(value, text):
    assert number(value) == text


# --- cards -----------------------------------------------------------------------------------------------------------


def headings(text: str) -> list[str]:
    return re.findall(r"^## (.+)$", text, re.MULTILINE)


def template() -> str:
    """The card template that models/README.md promises."""
    return re.search(r"```markdown\n(.*?)```", (ROOT / "models" / "README.md").read_text(), re.DOTALL)[1]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_card_has_every_line_of_the_template(tmp_path, recipe):
    run = Run(tmp_path, recipe)
    card = (run.card() / "model_card.md").read_text()
    assert card.startswith(f"# Model Card: {run.name}\n")
    assert headings(card) == headings(template())
    for label in re.findall(r"^- ([A-Z][A-Za-z0-9 ]+):", template(), re.MULTILINE):
        assert re.search(rf"^- {label}: \S", card, re.MULTILINE), label
    assert "[Value]" not in card and "None" not in card and "nan" not in card


def test_a_recipe_without_l1_says_what_makes_it_sparse(tmp_path):
    card = (Run(tmp_path).card() / "model_card.md").read_text()
    assert "- L1 Coefficient: none (TopK, k = 3 latents per token)\n" in card


def test_an_l1_recipe_states_both_conventions(tmp_path):
    card = (Run(tmp_path, "fixed").card() / "model_card.md").read_text()
    assert "- L1 Coefficient: 0.0003 in the convention mean-sum, 1.001 canonical, fixed\n" in card


def test_a_card_shows_every_metric_with_unit_window_and_interval(tmp_path):
    run = Run(tmp_path)
    card = (run.card() / "model_card.md").read_text()
    for row in read_json(run.metrics[1])["metrics"]:
        if row["snapshot"] == "final":
            line = next(line for line in card.splitlines() if line.startswith(f"| {name_of(row['metric'])} |"))
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            assert cells[1] == number(row["value"])
            assert cells[2] == ("" if row["low"] is None else f"{number(row['low'])} to {number(row['high'])}")
            assert cells[3:] == [row["unit"] or "ratio", number(row["held_out_tokens"])]


def test_the_config_names_the_hash_of_every_file_and_both_lambdas(tmp_path):
    folder = Run(tmp_path, "fixed").card()
    config = read_json(folder / "config.json")
    assert {file: sha256(folder / file) for file in ("model.pt", "model_card.md")} == config["files_sha256"]
    assert config["lambda"]["stated"] == 3e-4 and config["lambda"]["convention"] == "mean-sum"
    assert config["lambda"]["canonical"] == 1.0012
    assert config["metrics"]["fvu"]["held_out_tokens"] == 8064
    assert config["records"]["training"]["stage"] == "train_sae"
    assert Sae.load(folder / "model.pt").d_sae == config["d_sae"]


def test_the_same_run_gives_the_same_card_dated_by_its_training(tmp_path):
    run = Run(tmp_path)
    folder = run.card()
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {path.name: path.read_bytes() for path in run.card().iterdir()} == first
    assert "## Date\n2026-03-14\n" in first["model_card.md"].decode()


def test_weights_have_a_time_of_their_own(tmp_path):
    """A hard link would be older than the metrics it is published with, and a workflow would publish it for ever."""
    assert (Run(tmp_path).card() / "model.pt").stat().st_mtime > DAY + 1


def test_an_adaptive_run_that_missed_its_target_says_so(tmp_path):
    card = (Run(tmp_path, "adaptive").card() / "model_card.md").read_text()
    assert "steered to an L0 of 6, which was NOT reached (at the end 7.5 on the training stream)" in card
    assert "did not reach its L0 target" in card


def test_a_random_base_model_is_called_what_it_is(tmp_path):
    card = (Run(tmp_path, source="random gpt_neox, seed 0").card() / "model_card.md").read_text()
    assert "weights are random" in card


@pytest.mark.parametrize(
    ("part", "other"),
    [
        ("base-1b", "base-2b"),
        ("resid1", "mlp1"),
        ("resid1", "resid0"),
        ("exp4", "exp8"),
        ("2k", "3k"),
        ("topk", "fixed"),
    ],
)
def test_a_name_that_disagrees_with_the_weights_is_refused(tmp_path, part, other):
    run = Run(tmp_path)
    with pytest.raises(AtlasError, match=r"the name says .* Rename or rebuild it"):
        run.card(name=run.name.replace(part, other))


def test_weights_other_than_the_measured_ones_are_refused(tmp_path):
    run = Run(tmp_path)
    with pytest.raises(AtlasError, match=r"layer1_1k.pt: not the checkpoint that .*layer1.json measured"):
        run.card(checkpoint=run.files[1]["1k"])
    run.files[0]["final"] = run.files[1]["final"]
    with pytest.raises(AtlasError, match=r"layer1_final.pt: not the checkpoint"):
        run.publish()


@pytest.mark.parametrize("key", ["base_model", "corpus", "metrics"])
def test_files_of_another_run_are_refused(tmp_path, key):
    run = Run(tmp_path)
    expects = {**run.expects, "metrics": run.evaluations[1]["identity"], key: "another"}
    with pytest.raises(AtlasError, match=r"made by other settings, code or inputs .* Delete it and rerun"):
        run.card(expects=expects)


def test_nothing_in_a_config_breaks_a_card(tmp_path):
    evil = "x\n## Fake\n| a | b |\n```\n<script>"
    card = (Run(tmp_path).card(author=evil, text=evil) / "model_card.md").read_text()
    assert headings(card) == headings(template())
    assert "<script>" not in card.replace(r"\<", "")
    assert "\n```" not in card


def test_card_jobs_start_without_torch():
    """Sixty of them run in the default atlas; torch would take longer to import than everything they do."""
    heavy = "{'torch', 'transformers', 'pandas', 'matplotlib', 'zarr', 'numpy'}"
    program = f"import sys, sae_atlas.cards.model_card, sae_atlas.cards.release; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


# --- releases --------------------------------------------------------------------------------------------------------


def page(folder: Path) -> str:
    return (folder / "README.md").read_text()


def front_matter(text: str) -> dict:
    return yaml.safe_load(re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)[1])


def test_a_release_holds_all_layers_and_snapshots_without_using_the_disk_twice(tmp_path):
    run = Run(tmp_path)
    folder = run.publish()
    assert {path.name for path in folder.glob("*.pt")} == {
        f"sae_layer0{layer}_{snapshot}.pt" for layer in LAYERS for snapshot in SNAPSHOTS
    }
    assert os.path.samefile(folder / "sae_layer01_final.pt", run.files[1]["final"])
    sums = dict(reversed(line.split("  ")) for line in (folder / "SHA256SUMS").read_text().splitlines())
    assert sums == {path.name: sha256(path) for path in folder.glob("*.pt")}


def test_publishing_again_replaces_and_clears_what_is_stale(tmp_path):
    run = Run(tmp_path)
    folder = run.publish()
    (folder / "sae_layer07_50M.pt").write_bytes(b"of an earlier config")
    first = page(folder)
    run.publish()
    assert page(folder) == first
    assert not (folder / "sae_layer07_50M.pt").exists()


def test_the_hub_can_read_the_front_matter(tmp_path):
    matter = front_matter(page(Run(tmp_path).publish()))
    assert matter["license"] == "apache-2.0" and matter["library_name"] == "pytorch"
    assert matter["base_model"] == "owner/base-1b"
    assert {"sparse-autoencoder", "sae", "interpretability"} <= set(matter["tags"])


def test_a_release_has_the_published_layout(tmp_path):
    run = Run(tmp_path)
    folder = run.publish()
    text = page(folder)
    for heading in ("Contents", "File naming", "Loading", "Loss convention", "Sister runs", "Reproducing"):
        assert heading in headings(text)
    for image in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text):
        assert (folder / image).is_file()
    assert f"| **{run.release}** | TopK | 4 | k = 3 latents per token |" in text
    sister = release_name(run.base, 4, "fixed")
    assert f"| [{sister}](../{sister}) | ReLU with L1 penalty | 4 | L1 coefficient 0.0003 (mean-sum), fixed |" in text
    assert "cc-by-sa-4.0 (Wikipedia)" in text


def test_lambda_is_stated_in_both_conventions_over_the_layers(tmp_path):
    text = page(Run(tmp_path, "fixed").publish())
    assert "lambda 0.0003 in the convention mean-sum. That is 0.0012 to 1.001 (by layer) in the canonical one." in text


@pytest.mark.parametrize("recipe", ["topk", "fixed", "jumprelu"])
def test_the_loading_snippet_gives_what_the_library_gives(tmp_path, monkeypatch, recipe):
    folder = Run(tmp_path, recipe).publish()
    monkeypatch.chdir(folder)
    names: dict = {}
    exec(re.search(r"```python\n(.*?)```", page(folder), re.DOTALL)[1], names)
    sae = Sae.load(folder / names["path"])
    torch.testing.assert_close(names["latents"], sae.encode(names["x"]))
    torch.testing.assert_close(names["x_hat"], sae(names["x"]))


def test_the_config_shown_is_one_that_runs_and_hides_folders(tmp_path):
    shown = small(
        **{"corpus": {"name": "t", "source": "local", "path": "/home/me/text.jsonl", "context": 32, "tokens": "8k"}}
    )
    text = page(Run(tmp_path).publish(config=shown))
    config = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])
    check_config(config, yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text()), "README.md")
    assert config["recipes"] == shown["recipes"]
    assert "/home/me" not in text and "text.jsonl" in text


def test_nothing_in_a_config_breaks_a_page(tmp_path):
    evil = "x: y\n---\n## Fake\n| a |"
    run = Run(tmp_path)
    plain = page(run.publish())
    text = page(run.publish(licence=evil, author=evil, text=evil))
    assert front_matter(text)["license"] == evil
    assert headings(text.split("\n---\n", 1)[1]) == headings(plain)


def test_weights_under_models_go_through_git_lfs():
    paths = ["models/sae/x/model.pt", "models/releases/y/sae_layer00_final.pt", "models/sae/x/sae_weights.safetensors"]
    command = ["git", "check-attr", "filter", *paths, "models/README.md"]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.rsplit(": ")[-1] for line in lines] == ["lfs"] * 3 + ["unspecified"]


# --- the real run ----------------------------------------------------------------------------------------------------


def test_what_the_workflow_publishes_agrees_with_what_it_measured(finished):
    models = finished.folder / "models"
    for folder in (models / "sae").iterdir():
        config, parts = read_json(folder / "config.json"), parse_sae_name(folder.name)
        assert (parts.layer, parts.recipe, parts.tokens) == (
            config["layer"],
            config["recipe"]["name"],
            config["tokens"],
        )
        assert config["files_sha256"]["model.pt"] == sha256(folder / "model.pt")
        assert Sae.load(folder / "model.pt").config["record"] == config["records"]["training"]
        assert headings((folder / "model_card.md").read_text()) == headings(template())
    for folder in (models / "releases").iterdir():
        text = page(folder)
        assert front_matter(text)["base_model"] == "small-neox"
        schema = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text())
        check_config(yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1]), schema, "README.md")
