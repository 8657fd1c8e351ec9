"""The grid an atlas is: layers x snapshots x recipes, the order of the passes, and the identity of every cell.

Settings are what a stage's numbers depend on and nothing else; an identity is the hash of a stage's settings, code and
inputs' identities, so it is known before anything runs and can be checked in what is found on disk.
"""

from functools import cached_property, lru_cache

from sae_atlas.provenance import code_identity, identity
from sae_atlas.sizes import format_size

CODE = {  # the modules that determine a stage's numbers
    "prepare_model": ("base_models",),
    "tokenize": ("corpus.py", "arrays.py"),
    "save_activations": ("activations/save.py", "arrays.py", "sites.py"),
    "shard_activations": ("activations/shard.py", "activations/store.py", "arrays.py"),
    "train_sae": ("saes", "kernels", "training"),
    "save_held_out": ("metrics/held_out.py", "metrics/loss_recovered.py", "arrays.py", "sites.py"),
    "evaluate_sae": ("metrics", "saes", "arrays.py", "sites.py"),
    "plot_training_curves": ("figures/training_curves.py", "figures/style.py"),
    "plot_metrics_heatmap": ("figures/metrics_heatmap.py", "figures/scales.py", "figures/shown.py", "figures/style.py"),
    "model_card": ("cards", "figures/shown.py"),
    "release": ("cards", "figures/shown.py"),
}


class Atlas:
    """Names, ranges, settings and identities of all jobs of a resolved config (plan.config.resolve_config)."""

    def __init__(self, config: dict):
        self.config = config
        self.layers: list[int] = config["activations"]["layers"]
        self.recipes: list[str] = list(config["recipes"])
        self.stops: dict[str, int] = {
            format_size(tokens): tokens for tokens in [*config["training"]["snapshots"], config["training"]["tokens"]]
        }
        self.snapshots: list[str] = list(self.stops)
        self.identity = lru_cache(None)(self.identity)

    # --- the grid -------------------------------------------------------------------------------------------------

    @property
    def tokens(self) -> int:
        return self.config["training"]["tokens"]

    def expansion(self, recipe: str) -> int:
        return self.config["recipes"][recipe]["expansion"]

    @property
    def last(self) -> str:
        return self.snapshots[-1]

    def published(self, snapshot: str) -> str:
        """Name of a snapshot in tables and releases: the last one is `final`."""
        return "final" if snapshot == self.last else snapshot

    def previous(self, snapshot: str) -> str | None:
        place = self.snapshots.index(snapshot)
        return self.snapshots[place - 1] if place else None

    def following(self, snapshot: str) -> str | None:
        place = self.snapshots.index(snapshot) + 1
        return self.snapshots[place] if place < len(self.snapshots) else None

    def window(self, snapshot: str) -> tuple[int, int]:
        """Train tokens [start, stop) between the previous snapshot and this one."""
        previous = self.previous(snapshot)
        return (self.stops[previous] if previous else 0), self.stops[snapshot]

    @cached_property
    def groups(self) -> dict[str, list[int]]:
        """Layers saved by one forward pass, by name (`00-29`)."""
        size = self.config["activations"]["layers_per_pass"]
        chunks = [self.layers[first : first + size] for first in range(0, len(self.layers), size)]
        return {f"{chunk[0]:02d}-{chunk[-1]:02d}": chunk for chunk in chunks}

    def group_of(self, layer: int) -> str:
        return next(name for name, layers in self.groups.items() if layer in layers)

    @cached_property
    def passes(self) -> list[tuple[str, str]]:
        """(snapshot, group) in the order the forward passes run: a window is finished before the next begins."""
        return [(snapshot, group) for snapshot in self.snapshots for group in self.groups]

    def freed_by(self, snapshot: str, group: str) -> list[tuple[int, str]]:
        """(layer, snapshot) cells that must be trained before this pass may fill the disk again.

        Keeps the number of stores at or below `activations.max_live_stores`.
        """
        ahead = self.config["activations"]["max_live_stores"] // self.config["activations"]["layers_per_pass"]
        place = self.passes.index((snapshot, group)) - ahead
        if place < 0:
            return []
        earlier, layers = self.passes[place]
        return [(layer, earlier) for layer in self.groups[layers]]

    # --- settings: what a stage's numbers depend on, as scalars in a fixed order --------------------------------------

    def settings(self, stage: str, **cell) -> dict:
        return getattr(self, f"_{stage}")(**cell)

    def _prepare_model(self) -> dict:
        return {key: value for key, value in self.config["base_model"].items() if key not in ("name", "dtype")}

    def _tokenize(self) -> dict:
        corpus = self.config["corpus"]
        text = {
            key: value
            for key, value in corpus.items()
            if key not in ("name", "context", "tokens", "held_out_tokens", "seed")
        }
        return {
            "text": text,
            "context": corpus["context"],
            "train_tokens": corpus["tokens"],
            "held_out_tokens": corpus["held_out_tokens"],
            "seed": corpus["seed"],
        }

    def _save_activations(self, snapshot: str) -> dict:
        # Which layers share the pass is left out: one layer more changes nothing for the others.
        activations = self.config["activations"]
        start, stop = self.window(snapshot)
        return {
            "site": activations["site"],
            "start": start,
            "stop": stop,
            "dtype": activations["dtype"],
            "model_dtype": self.config["base_model"]["dtype"],
            "contexts_per_batch": activations["contexts_per_batch"],
        }

    def _shard_activations(self, snapshot: str, layer: int) -> dict:
        activations = self.config["activations"]
        keys = ("compression", "outlier_norm", "shard_rows", "chunk_rows", "seed")
        return {"layer": layer, **{key: activations[key] for key in keys}}

    def _train_sae(self, recipe: str, layer: int, snapshot: str) -> dict:
        values = self.config["recipes"][recipe]
        start, stop = self.window(snapshot)
        # Where the decay does not reach the window, the total does not matter: a longer run leaves it alone.
        decaying = stop > (1 - values["decay"]) * self.tokens
        return {"recipe": values, "start": start, "stop": stop, "total": self.tokens if decaying else None}

    def _save_held_out(self) -> dict:
        activations, evaluation = self.config["activations"], self.config["evaluation"]
        return {
            "site": activations["site"],
            "tokens": evaluation["tokens"],
            "patched_tokens": evaluation["patched_tokens"],
            "contexts_per_batch": evaluation["contexts_per_batch"],
            "model_dtype": self.config["base_model"]["dtype"],
        }

    def _evaluate_sae(self, recipe: str, layer: int) -> dict:
        evaluation = self.config["evaluation"]
        return {
            "recipe": recipe,
            "layer": layer,
            "contexts_per_batch": evaluation["contexts_per_batch"],
            "outlier_norm": evaluation["outlier_norm"],
        }

    def _plot_training_curves(self, recipe: str) -> dict:
        target = self.config["recipes"][recipe].get("l1", {}).get("target_l0")
        return {**self._plot_metrics_heatmap(recipe), "target_l0": target}

    def _plot_metrics_heatmap(self, recipe: str) -> dict:
        title = f"{self.config['base_model']['name']}, {self.config['activations']['site']}"
        return {"title": title, "recipe": recipe, "colour_map": self.config["figures"]["colour_map"]}

    def _model_card(self, recipe: str, layer: int) -> dict:
        names = {"base": self.config["base_model"]["name"], "text": self.config["corpus"]["name"]}
        return {**names, "author": self.config["release"]["author"]}

    def _release(self, recipe: str) -> dict:
        """What its page says; `config` is what makes this recipe again, without what only bounds disk or memory."""
        activations, base, text = self.config["activations"], self.config["base_model"], self.config["corpus"]
        keys = ("site", "layers", "dtype", "outlier_norm", "shard_rows", "chunk_rows", "seed")
        return {
            "base": base["name"],
            "text": text["name"],
            "licence": self.config["release"]["licence"],
            "author": self.config["release"]["author"],
            "config": {
                "base_model": base,
                "corpus": text,
                "activations": {key: activations[key] for key in keys},
                "training": self.config["training"],
                "recipes": {recipe: self.config["recipes"][recipe]},
                "evaluation": self.config["evaluation"],
            },
        }

    # --- identities -------------------------------------------------------------------------------------------------

    def inputs(self, stage: str, **cell) -> dict:
        """Identity of every input of a job, by the input's name in its rule."""
        if stage == "prepare_model":
            return {}
        if stage == "tokenize":
            return {"base_model": self.identity("prepare_model")}
        if stage in ("save_activations", "save_held_out"):
            return {"base_model": self.identity("prepare_model"), "corpus": self.identity("tokenize")}
        if stage == "shard_activations":
            return {"activations": self.identity("save_activations", snapshot=cell["snapshot"])}
        if stage == "train_sae":
            previous = self.previous(cell["snapshot"])
            store = self.identity("shard_activations", snapshot=cell["snapshot"], layer=cell["layer"])
            if previous is None:
                return {"store": store}
            return {"store": store, "previous": self.identity("train_sae", **{**cell, "snapshot": previous})}
        if stage == "evaluate_sae":
            return {
                "base_model": self.identity("prepare_model"),
                "held_out": self.identity("save_held_out"),
                **{
                    self.published(snapshot): self.identity("train_sae", **cell, snapshot=snapshot)
                    for snapshot in self.snapshots
                },
            }
        if stage == "plot_training_curves":
            last = {layer: self.identity("train_sae", **cell, layer=layer, snapshot=self.last) for layer in self.layers}
            return {f"layer{layer:02d}": found for layer, found in last.items()}
        if stage == "plot_metrics_heatmap":
            return self._evaluations(**cell)
        published = {"base_model": self.identity("prepare_model"), "corpus": self.identity("tokenize")}
        if stage == "model_card":
            return {**published, "metrics": self.identity("evaluate_sae", **cell)}
        if stage == "release":
            return {**published, **self._evaluations(**cell)}
        raise ValueError(f"no stage {stage}")

    def _evaluations(self, recipe: str) -> dict:
        return {f"layer{layer:02d}": self.identity("evaluate_sae", recipe=recipe, layer=layer) for layer in self.layers}

    def code(self, stage: str) -> str:
        return code_identity(*CODE[stage])

    def identity(self, stage: str, **cell) -> str:
        return identity(stage, self.settings(stage, **cell), self.code(stage), self.inputs(stage, **cell))
