"""What every rule has to do: jobs, tokens, arithmetic, bytes. Counted from the config alone, for no machine in particular."""

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from sae_atlas.config.made import MADE, base_of
from sae_atlas.plan import feature_files
from sae_atlas.plan.jobs import jobs
from sae_atlas.plan.shape import Shape
from sae_atlas.plan.stages.activations import saved_dtype

BYTES = {"float32": 4, "float16": 2, "int8": 1}  # of a value in a store, before it is compressed
MASTER = 4  # bytes of a float32 weight
ADAM = 28  # bytes moved per weight and step: weight and two averages read and written, gradient read
MEMORY_BOUND = 6  # FLOPs per active entry and dimension that the sparse step adds: decode and two gradients, 2 each
MEDIAN_ROWS = 8192  # sampled of every store for its geometric median
MEDIAN_BYTES = 2000  # moved per value of the sample: some 100 steps over it in float64
DENSER = 0.05  # share of the latents taken as active where the config does not say
OF_LATENTS = ("top_contexts", "evolution", "contexts_of_matches", "score_latents", "name_latents", "explorer")
WITHOUT_SHAPE = ("jobs", "tokens")  # what is known of a model whose sizes are not


@dataclass(frozen=True)
class Work:
    """All jobs of a rule together."""

    rule: str
    jobs: int
    tokens: int = 0  # that pass through it, each time it passes
    products: float = 0.0  # FLOPs in matrix products
    moved: float = 0.0  # bytes through memory beside the products
    written: float = 0.0  # bytes to disk
    read: float = 0.0  # bytes from disk


@dataclass(frozen=True)
class Disk:
    """Bytes. `stays`: what is there at the end. `peak`: what may be there at once."""

    stays: float
    peak: float


def count(atlas, shape: Shape | None) -> list[Work]:
    """Work of every rule in the order data flows. Without a shape only jobs and tokens are counted."""
    grid = _Grid(atlas, shape)
    found = []
    for rule, names in jobs(atlas).items():
        known = getattr(grid, rule, dict)()
        if shape is None:
            known = {key: value for key, value in known.items() if key in WITHOUT_SHAPE}
        found.append(Work(rule, len(names), **known))
    return found


class _Grid:
    """One method per rule whose work grows with the config; the others only start."""

    def __init__(self, atlas, shape: Shape | None):
        self.atlas, self.config = atlas, atlas.config
        self.shape = shape or Shape(0, 0, 0, 0, 0, 0)
        self.d_in = self.shape.d_model  # of every site we name; a module path may have another
        self.cells = len(atlas.layers) * len(atlas.snapshots)
        self.context = self.config["corpus"]["context"]
        self.held_out, self.patched = (self.config["evaluation"][key] for key in ("tokens", "patched_tokens"))

    @property
    def stores(self) -> float:
        """Bytes of all stores together."""
        return atlas_tokens(self.atlas) * self.d_in * BYTES[self.config["activations"]["dtype"]]

    @property
    def saved(self) -> float:
        """Bytes of the activations that they are made from."""
        return atlas_tokens(self.atlas) * self.d_in * BYTES[saved_dtype(self.atlas)]

    def latents(self, recipe: str) -> int:
        return self.atlas.expansion(recipe) * self.d_in

    def active(self, recipe: str) -> float:
        return _active(self.config["recipes"][recipe], self.latents(recipe))

    def checkpoints(self, recipe: str) -> int:
        return len(self.atlas.layers) * len(self.atlas.snapshots_of(recipe))

    def weights(self, recipe: str) -> int:
        """Of encoder and decoder."""
        return 2 * self.latents(recipe) * self.d_in

    def prepare_model(self) -> dict:
        made = self.config["base_model"]["source"] in MADE  # and used in place
        return {} if made else {"written": self.shape.parameters * self.shape.value_bytes}

    def tokenize(self) -> dict:
        tokens = self.config["corpus"]["tokens"] + self.config["corpus"]["held_out_tokens"]
        id_bytes = np.min_scalar_type(max(self.shape.vocabulary - 1, 255)).itemsize  # as corpus.py chooses
        return {"tokens": tokens, "written": tokens * (id_bytes + 1)}  # and the mask

    def pretrain(self) -> dict:
        """Forward, and backward twice as much; the best, the last and the published weights."""
        tokens = base_of(self.config["base_model"])["fit"]["tokens"]
        products = 3 * tokens * self.shape.forward(self.shape.n_layers, self.context, True)
        return {"tokens": tokens, "products": products, "written": 3 * MASTER * self.shape.parameters}

    def fine_tune_lora(self) -> dict:
        """The base's weights have no gradient: backward is as much as forward, and the updates little beside both."""
        tokens = self.config["base_model"]["fit"]["tokens"]
        return {"tokens": tokens, "products": 2 * tokens * self.shape.forward(self.shape.n_layers, self.context, True)}

    def merge_lora(self) -> dict:
        return {"written": 2 * MASTER * self.shape.parameters}

    def tokenize_domain(self) -> dict:
        tokens = self.config["base_model"]["lora"]["corpus"]["tokens"] + self.config["corpus"]["held_out_tokens"]
        return {"tokens": tokens}

    def save_activations(self) -> dict:
        tokens = self.atlas.tokens
        products = sum(
            tokens * self.shape.forward(layers[-1] + 1, self.context, False) for layers in self.atlas.groups.values()
        )
        return {"tokens": tokens * len(self.atlas.groups), "products": products, "written": self.saved}

    def shard_activations(self) -> dict:
        return {
            "tokens": atlas_tokens(self.atlas),
            "moved": 8 * self.saved + self.cells * MEDIAN_ROWS * MEDIAN_BYTES * self.d_in,
            "read": 2 * self.saved,
            "written": self.stores,
        }

    def train_sae(self) -> dict:
        products = moved = written = 0.0
        tokens = atlas_tokens(self.atlas)
        for name in self.atlas.trained:
            recipe, weights = self.config["recipes"][name], self.weights(name)
            products += tokens * (weights + MEMORY_BOUND * self.active(name) * self.d_in)
            moved += tokens / recipe["batch"] * ADAM * weights
            written += self.cells * MASTER * 4 * weights  # checkpoint, and the resume file with both averages
        runs = len(self.atlas.trained)
        return {
            "tokens": tokens * runs,
            "products": products,
            "moved": moved,
            "written": written,
            "read": runs * self.stores,
        }

    def import_sae(self) -> dict:
        return {"written": sum(MASTER * self.weights(name) * self.checkpoints(name) for name in self.atlas.pretrained)}

    def save_held_out(self) -> dict:
        clean = self.held_out * self.shape.forward(self.shape.n_layers, self.context, False)
        logits = self.patched * self.shape.forward(0, self.context, True)
        passes = 2 * self._patched_passes()
        written = MASTER * self.d_in * (self.held_out * len(self.atlas.layers) + self.patched)
        tokens = self.held_out + 2 * self.patched * len(self.atlas.layers)
        return {"tokens": tokens, "products": clean + 2 * logits + passes, "written": written}

    def evaluate_sae(self) -> dict:
        recipes, layers = self.atlas.recipes, len(self.atlas.layers)
        runs, cells = len(recipes), sum(map(self.checkpoints, recipes))
        clean = runs * layers * self.patched * self.shape.forward(0, self.context, True)
        passes = cells / layers * self._patched_passes()
        codes = sum(2 * self.weights(name) * self.checkpoints(name) for name in recipes) * self.held_out
        read = runs * MASTER * self.d_in * (self.held_out * layers + self.patched)
        compared = sum(2 * self.checkpoints(name) * self._directions(name) for name in recipes)  # nearest, settled
        products = clean + passes + codes + compared
        return {"tokens": self.held_out * cells, "products": products, "read": read}

    def match_layers(self) -> dict:
        layers = len(self.atlas.layers)
        products = (layers - 1) * sum(map(self._directions, self.atlas.recipes))
        return {"products": products, "read": layers * sum(MASTER * self.weights(name) for name in self.atlas.recipes)}

    def _directions(self, recipe: str) -> float:
        """FLOPs of the cosines of all latents of one SAE with all of another."""
        return 2 * self.latents(recipe) ** 2 * self.d_in

    def _patched_passes(self) -> float:
        """FLOPs of one pass of the patched tokens through what lies above each layer."""
        above = (self.shape.forward(self.shape.n_layers - 1 - layer, self.context, True) for layer in self.atlas.layers)
        return self.patched * sum(above)

    def distill(self) -> dict:
        """The base model once, every student forward and backward; evaluations run heads and students forward alone."""
        students = self.config["floors"]["students"]
        read = students["steps"] * students["batch"] * self.context
        measured = students["evaluations"] * students["held_out_tokens"]
        head = self.shape.forward(0, self.context, True)
        products = (read + students["held_out_tokens"]) * self.shape.forward(self.shape.n_layers, self.context, True)
        products += measured * head
        for width in students["widths"]:
            scale = width / max(self.d_in, 1)
            blocks = replace(self.shape, d_model=width, block_weights=self.shape.block_weights * scale**2)
            forward = blocks.forward(self.shape.n_layers, self.context, True)
            products += students["seeds"] * (3 * read + measured) * forward
        return {"tokens": read, "products": products}

    def save_text(self) -> dict:
        """Layers, and those next to them, are read in one pass per group, as for training."""
        tokens, layers = self.config["features"]["tokens"], len(self.atlas.text_layers)
        groups = self.atlas.text_groups.values()
        products = sum(tokens * self.shape.forward(group[-1] + 1, self.context, False) for group in groups)
        written = tokens * layers * self.d_in * BYTES[saved_dtype(self.atlas)]
        return {"tokens": tokens * len(groups), "products": products, "written": written}

    def top_contexts(self) -> dict:
        """The encoder over the text, twice read, and the logits of every decoder row."""
        layers, (tokens, read) = len(self.atlas.feature_layers), self._text()
        recipes, head = self.atlas.recipes, self.shape.forward(0, self.context, True)
        codes = tokens * sum(map(self.weights, recipes))
        lens = head * sum(map(self.latents, recipes))
        cells = layers * len(recipes)
        features = self.config["features"]
        kept = features["contexts"], features["window"], tokens
        written = layers * sum(
            feature_files.of_contexts(self.latents(name), *kept, self.active(name), self.d_in) for name in recipes
        )
        products = layers * (codes + lens)
        return {"tokens": tokens * cells, "products": products, "read": cells * read, "written": written}

    def _text(self) -> tuple[int, float]:
        """Tokens of the text that contexts are taken from, and bytes of a layer's activations of it, which are read twice."""
        features = self.config["features"]
        if features["split"] == "held_out":
            return self.held_out, 2 * self.held_out * self.d_in * MASTER
        return features["tokens"], 2 * features["tokens"] * self.d_in * BYTES[saved_dtype(self.atlas)]

    def evolution(self) -> dict:
        """Cosines with every earlier snapshot and with two layers."""
        recipes, layers = self.atlas.recipes, len(self.atlas.feature_layers)
        places = {name: len(self.atlas.snapshots_of(name)) + 1 for name in recipes}
        products = sum(places[name] * self._directions(name) for name in recipes)
        read = MASTER * sum((places[name] + 1) * self.weights(name) for name in recipes)
        rows = sum(count * self.latents(name) for name, count in self._places().items())
        return {"products": layers * products, "read": layers * read, "written": feature_files.MATCH * rows}

    def score_latents(self) -> dict:
        return {"written": feature_files.SCORED * self._looked_at()}

    def name_latents(self) -> dict:
        return {"written": feature_files.NAMED * self._looked_at()}

    def _looked_at(self) -> int:
        """Latents, of all layers and recipes."""
        return len(self.atlas.feature_layers) * sum(map(self.latents, self.atlas.recipes))

    def contexts_of_matches(self) -> dict:
        """The encoders of the earlier snapshots and of the layers beside, over the text that top_contexts reads."""
        tokens, read = self._text()
        places = self._places()
        return {
            "written": sum(feature_files.of_matches(self.latents(name), count) for name, count in places.items()),
            "tokens": tokens * sum(places.values()),
            "products": tokens * sum(count * self.weights(name) for name, count in places.items()),
            "read": sum(count * (read + MASTER * self.weights(name)) for name, count in places.items()),
        }

    def _places(self) -> dict[str, int]:
        """Where matches are looked for, of all layers, by recipe: earlier snapshots, and the layers beside."""
        layers = self.atlas.feature_layers
        beside = sum(len(self.atlas.beside(layer)) for layer in layers)
        return {name: beside + len(layers) * (len(self.atlas.snapshots_of(name)) - 1) for name in self.atlas.recipes}

    def explorer(self) -> dict:
        """Cosines of all latents of a layer with each other."""
        layers, recipes = len(self.atlas.feature_layers), self.atlas.recipes
        products = layers * sum(map(self._directions, recipes))
        kept, places = self.config["features"]["contexts"], self._places()
        written = sum(
            feature_files.of_explorer(self.latents(name), kept, places[name] / layers) * layers for name in recipes
        )
        read = layers * sum(MASTER * self.weights(name) for name in recipes)
        return {"products": products, "read": read, "written": written}

    def release(self) -> dict:
        """Checkpoints are linked, and read for their hashes."""
        return {"read": self.cells * sum(MASTER * self.weights(name) for name in self.atlas.trained)}

    def model_card(self) -> dict:
        """The checkpoint and the SAELens pair."""
        return {"written": len(self.atlas.layers) * sum(2 * MASTER * self.weights(name) for name in self.atlas.recipes)}

    def index(self) -> dict:
        """Both are hashed, then compared."""
        return {"read": 2 * self.model_card()["written"]}


def atlas_tokens(atlas) -> int:
    """Tokens of all stores: of every layer as many as are trained on."""
    return atlas.tokens * len(atlas.layers)


def disk(atlas, work: list[Work]) -> Disk:
    """What stays is the model, corpus, held-out data, checkpoints, the last resume files, the published weights, and what
    is said about the latents.

    On top of it, while it runs: the stores that may live at once (activations.max_live_stores), and the activations of as
    many, for a pass goes only when all its layers are sharded; and the text that contexts are taken from.
    """
    by_rule = {each.rule: each for each in work}
    written = Counter({rule: by_rule[rule].written for rule in by_rule})  # 0 where nothing is trained
    snapshots = len(atlas.snapshots)
    checkpoints = written["train_sae"] / 4
    resumes = written["train_sae"] * 3 / 4 / snapshots
    kept = (
        "pretrain",
        "merge_lora",
        "prepare_model",
        "tokenize",
        "save_held_out",
        "import_sae",
        "model_card",
        *OF_LATENTS,
    )
    stays = sum(written[rule] for rule in kept) + checkpoints + resumes
    longest = max(stop - start for start, stop in map(atlas.window, atlas.snapshots))
    store = (written["shard_activations"] + written["save_activations"]) / atlas_tokens(atlas) * longest
    live = min(atlas.config["activations"]["max_live_stores"], len(atlas.layers) * snapshots)
    return Disk(stays, stays + live * store + written["save_text"])


def _active(recipe: dict, latents: int) -> float:
    """Latents active per token, as far as the recipe says."""
    target = recipe.get("l1", {}).get("target_l0") or recipe.get("jumprelu", {}).get("target_l0")
    return recipe.get("k") or target or DENSER * latents
