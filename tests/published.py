"""A finished run of one recipe to publish: real checkpoints of random weights, made-up metrics; and readers of its pages."""

import os
import re
from datetime import UTC, datetime
from pathlib import Path

import torch
import yaml
import zarr
from tables import metric_rows

from sae_atlas.config.read import complete_recipe
from sae_atlas.io.files import sha256, write_json
from sae_atlas.io.provenance import make_record, recording
from sae_atlas.publish.cards.names import release_name, sae_name
from sae_atlas.publish.cards.release import write_release
from sae_atlas.publish.formats.published import publish_sae
from sae_atlas.saes import checkpoint as checkpoints
from sae_atlas.saes import matching_pursuit
from sae_atlas.saes.sae import Sae
from workflow import ROOT, small

LAYERS, SNAPSHOTS, D_IN, D_OUT = (0, 1), {"1k": 1000, "final": 2000}, 8, 6
RECIPES = {
    "topk": {"architecture": "topk", "expansion": 4, "k": 3},
    "fixed": {"architecture": "relu", "expansion": 4, "l1": {"coefficient": 3e-4, "convention": "mean-sum"}},
    "adaptive": {"architecture": "relu", "expansion": 4, "l1": {"coefficient": 5e-4, "target_l0": 6}},
    "annealed": {"architecture": "relu", "expansion": 4, "l1": {"coefficient": 5e-4, "anneal_to": 0.2}},
    "jumprelu": {"architecture": "jumprelu", "expansion": 4},
    "pursuit": {"architecture": "matching_pursuit", "expansion": 4, "k": 3},
    "transcoder": {"architecture": "topk", "expansion": 4, "k": 3, "skip": True},
}
DAY = datetime(2026, 3, 14, 15, 9, tzinfo=UTC).timestamp()


class Run:
    """A finished run of one recipe: real checkpoints of random weights, made-up metrics."""

    def __init__(self, folder: Path, recipe: str = "topk", base: str = "base-1b", source: str = "hub owner/base-1b"):
        self.folder, self.recipe, self.base = folder, recipe, base
        self.values = complete_recipe(RECIPES[recipe])
        self.is_transcoder = recipe == "transcoder"
        self.sites = {"site": "mlp_in", "target": "mlp_out"} if self.is_transcoder else {"site": "resid_post"}
        self.model = make_record("prepare_model", {"source": source}, "0", {})
        self.corpus = make_record("tokenize", {"context": 128}, "0", {})
        layers = [{"gives": {"resid_post": f"model.layers.{layer}"}} for layer in range(2)]
        provenance = {"source": source, "licence": "apache-2.0", "quantisation": None, "architecture": "llama"}
        provenance["sites"] = {"layers": layers}
        write_json(folder / "provenance.json", provenance | {"n_layers": 2, "d_model": D_IN, "record": self.model})
        text = {"source": "package", "package": "wikipedia-introductions"}
        zarr.create_group(folder / "corpus.zarr", zarr_format=3).attrs.update(
            {"text": text, "held_out_tokens": 512, "record": self.corpus}
        )
        self.files = {layer: {name: self._checkpoint(layer, name) for name in SNAPSHOTS} for layer in LAYERS}
        self.evaluations = {layer: make_record("evaluate_sae", {"layer": layer}, "0", {}) for layer in LAYERS}
        self.metrics = {layer: self._measure(layer) for layer in LAYERS}
        for figure in ("1_training_curves", "2_metrics_heatmap", "4_feature_density"):
            (folder / f"{figure}.png").write_bytes(b"a picture")
        site, target = self.sites["site"], self.sites.get("target")
        self.name = sae_name(base, site, 1, 4, SNAPSHOTS["final"], recipe, target=target)
        self.release = release_name(base, 4, recipe)

    def _checkpoint(self, layer: int, snapshot: str) -> Path:
        generator = torch.Generator().manual_seed(layer * 10 + SNAPSHOTS[snapshot])
        d_sae, d_out = 4 * D_IN, D_OUT if self.is_transcoder else D_IN
        weights = {
            "W_enc": torch.randn(d_sae, D_IN, generator=generator),
            "b_enc": torch.randn(d_sae, generator=generator),
            "W_dec": torch.randn(d_sae, d_out, generator=generator),
            "b_dec": torch.randn(d_out, generator=generator),
        }
        if self.recipe == "pursuit":
            weights, _ = matching_pursuit.inference(weights, 0.0)
        threshold = torch.rand(d_sae, generator=generator) if self.recipe == "jumprelu" else None
        config = {
            "recipe": self.values,
            "d_in": D_IN,
            "d_sae": d_sae,
            "tokens": SNAPSHOTS[snapshot],
            "normaliser": {"mean": torch.ones(D_IN), "scale": 0.5},
            "activations": {"base_model": {}, **self.sites, "layer": layer},
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
        of_input = torch.ones(D_IN), 0.5
        if self.is_transcoder:
            config["d_out"] = d_out
            weights["W_skip"] = torch.randn(d_out, D_IN, generator=generator)
            folded = checkpoints.fold_transcoder(weights, threshold, of_input, (torch.ones(d_out), 0.25))
        else:
            folded = checkpoints.fold(weights, threshold, *of_input)
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

    def card(self, **changes) -> Path:
        arguments = {
            "checkpoint": self.files[1]["final"],
            "metrics": self.metrics[1],
            "base_model": self.folder / "provenance.json",
            "corpus": self.folder / "corpus.zarr",
            "card": self.folder / "models" / self.name / "model_card.md",
            "name": self.name,
            "base": self.base,
            "text": "wikipedia-introductions",
            "author": "",
        } | changes
        with recording(make_record("model_card", {}, "0", {})):
            publish_sae(**arguments)
        return Path(arguments["card"]).parent

    def publish(self, **changes) -> Path:
        arguments = {
            "checkpoints": [path for layer in LAYERS for path in self.files[layer].values()],
            "metrics": list(self.metrics.values()),
            "layers": LAYERS,
            "snapshots": list(SNAPSHOTS),
            "figures": sorted(self.folder.glob("*.png")),
            "base_model": self.folder / "provenance.json",
            "corpus": self.folder / "corpus.zarr",
            "readme": self.folder / "releases" / self.release / "README.md",
            "name": self.release,
            "base": self.base,
            "text": "wikipedia-introductions",
            "sisters": {release_name(self.base, 4, "fixed"): complete_recipe(RECIPES["fixed"])},
            "config": small(),
            "licence": "apache-2.0",
            "author": "",
        } | changes
        with recording(make_record("release", {}, "0", {})):
            write_release(**arguments)
        return Path(arguments["readme"]).parent


def headings(text: str) -> list[str]:
    return re.findall(r"^## (.+)$", text, re.MULTILINE)


def template() -> str:
    """The card template that models/README.md promises."""
    return re.search(r"```markdown\n(.*?)```", (ROOT / "models" / "README.md").read_text(), re.DOTALL)[1]


def page(folder: Path) -> str:
    return (folder / "README.md").read_text()


def front_matter(text: str) -> dict:
    return yaml.safe_load(re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)[1])
