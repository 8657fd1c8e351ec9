"""What the benchmarks of quality read: the default's model, text and some layers, made once and kept in a folder."""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import yaml

from sae_atlas.activations.save import save_activations
from sae_atlas.activations.shard import shard_activations
from sae_atlas.base_models.prepare import prepare
from sae_atlas.config.read import complete_recipe
from sae_atlas.corpus import tokenize
from sae_atlas.io.files import read_json
from sae_atlas.io.provenance import make_record, read_record, recording
from sae_atlas.io.sizes import parse_size
from sae_atlas.metrics.evaluate import evaluate
from sae_atlas.metrics.held_out import save_held_out
from sae_atlas.stages.atlas import Atlas
from sae_atlas.stages.job import as_arguments
from sae_atlas.training.train import train

ROOT = Path(__file__).parent.parent
STORE = {"dtype": "float16", "compression": "none", "outlier_norm": 10, "shard_rows": 65536, "chunk_rows": 4096}
METRICS = ("ce_recovered", "kl_recovered", "fvu", "l0", "dead")


def default(tokens: int, layers: Sequence[int] = (14,)) -> dict:
    """Resolved config: the first `tokens` tokens of the embedded default at these layers."""
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    corpus = config["corpus"] | {"tokens": parse_size(config["corpus"]["tokens"]), "held_out_tokens": 16_000, "seed": 0}
    return config_of(config["base_model"], corpus, layers, tokens, {"tokens": 8000, "patched_tokens": 4000})


def default_recipe(toy: bool = False) -> tuple[str, dict]:
    """Name and keys of the embedded default's first recipe; with sizes for `toy`'s model."""
    recipes = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))["recipes"]
    name, recipe = next(iter(recipes.items()))
    return name, recipe | ({"k": 4, "batch": 128} if toy else {})


def options(about: str, name: str) -> argparse.ArgumentParser:
    """What every benchmark on this data may be told. about: what it is; name: of its page and file."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--toy", action="store_true", help="tiny sizes, seconds; writes nothing unless --out is given")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", type=Path, help="folder that keeps model, text and stores; default: none is kept")
    pages = f"{name.upper()}.md and {name}.json"
    parser.add_argument("--out", type=Path, help=f"folder of {pages}; default benchmarks/")
    return parser


def toy(folder: Path, layers: Sequence[int] = (1,)) -> dict:
    """Resolved config: a random model of two layers and 16 dimensions that reads numbered sentences."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return numbered(folder, sizes, layers, 2048, {"tokens": 400, "patched_tokens": 200})


def numbered(
    folder: Path,
    sizes: dict,
    layers: Sequence[int],
    tokens: int,
    evaluation: dict,
    context: int = 16,
    dtype: str = "float32",
) -> dict:
    """Resolved config: a random GPT-NeoX of these sizes that reads numbered sentences, which are written into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    text, more = folder / "text.txt", evaluation["tokens"] + 8 * context  # documents are cut to whole contexts
    documents = [f"Document {number} says {number * 37}." for number in range((tokens + more) // 8)]
    text.write_text("\n\n".join(documents), encoding="utf-8")
    model = {"name": "random", "source": "random", "architecture": "gpt_neox", "sizes": sizes, "seed": 0}
    model |= {"tokenizer": "bytes", "dtype": dtype}
    corpus = {"name": "numbers", "source": "local", "path": str(text), "context": context}
    corpus |= {"tokens": tokens, "held_out_tokens": more, "seed": 0}
    return config_of(model, corpus, layers, tokens, evaluation)


def config_of(base_model: dict, corpus: dict, layers: Sequence[int], tokens: int, evaluation: dict) -> dict:
    """A resolved config without recipes."""
    return {
        "base_model": base_model,
        "corpus": corpus,
        "activations": {"site": "resid_post", "layers": list(layers), "contexts_per_batch": 16, "seed": 0}
        | {"layers_per_pass": len(layers), "max_live_stores": 2 * len(layers), **STORE},
        "training": {"tokens": tokens, "snapshots": []},
        "recipes": {},
        "evaluation": evaluation | {"contexts_per_batch": 8, "outlier_norm": 10},
    }


class Real:
    """One layer's files in a folder, each made as the workflow would where the right one is not there yet."""

    def __init__(self, folder: Path, config: dict, layer: int | None = None):
        """layer: one of the config's, by default the first; one pass of the model saves them all."""
        self.folder, self.config = folder, config
        layers = config["activations"]["layers"]
        self.layer, self.tokens = layers[0] if layer is None else layer, config["training"]["tokens"]
        self.window, self.seconds = {"snapshot": Atlas(config).last}, {}  # what each stage that was not there took
        self.model, self.corpus = folder / "model/provenance.json", folder / "corpus.zarr"
        of = "-".join(map(str, layers))
        self.held_out, self.saved = folder / f"held_out_{of}.zarr", folder / f"saved_{of}_{self.tokens}.zarr"
        prepared, tokenized, hold_out, save = self.functions(layers)
        self._make("prepare_model", prepared, self.model)
        self._make("tokenize", tokenized, self.model, self.corpus)
        self._make("save_held_out", hold_out, self.model, self.corpus, self.held_out)
        self._make("save_activations", save, self.model, self.corpus, self.saved, **self.window)

    def functions(self, layers: list[int]) -> tuple[Callable, ...]:
        """Those of the stages prepare_model, tokenize, save_held_out and save_activations."""
        return prepare, tokenize, partial(save_held_out, layers=layers), partial(save_activations, layers=layers)

    def store(self, **how) -> Path:
        """The store with the keys of `activations` that are given in `how`."""
        config = self.config | {"activations": self.config["activations"] | how}
        path = self.folder / ("_".join(map(str, ["store", self.layer, self.tokens, *how.values()])) + ".zarr")
        self._make(
            "shard_activations", shard_activations, self.saved, path, config=config, layer=self.layer, **self.window
        )
        return path

    def train(self, recipe: dict, store: Path, checkpoint: Path) -> None:
        """Ours, one epoch over the store."""
        outputs = {name: checkpoint.with_suffix(f".{name}") for name in ("resume", "curve")}
        train(store, complete_recipe(recipe), 0, self.tokens, self.tokens, checkpoint, **outputs, threads=2)

    def evaluate(self, checkpoints: dict[str, Path]) -> dict[str, dict]:
        """METRICS by name of the checkpoint."""
        keys = ("contexts_per_batch", "outlier_norm")
        settings = {key: self.config["evaluation"][key] for key in keys} | {"recipe": "", "layer": self.layer}
        names = ("metrics.parquet", "latents.parquet", "blocks.parquet", "metrics.json")
        *tables, found = (self.folder / name for name in names)
        held_out, snapshots = self.held_out / f"layer{self.layer:02d}", list(checkpoints)
        evaluate(held_out, self.model, list(checkpoints.values()), snapshots, *tables, found, **settings)
        values = {name: {} for name in checkpoints}
        for row in read_json(found)["metrics"]:
            if row["metric"] in METRICS:
                values[row["snapshot"]][row["metric"]] = row["value"]
        return values

    def _make(self, stage: str, function: Callable, *files: Path, config: dict | None = None, **cell) -> None:
        """Run a stage's function on `files`, the last of which is its output, if this is not there."""
        atlas = Atlas(config or self.config)
        settings, inputs = atlas.settings(stage, **cell), atlas.inputs(stage, **cell)
        record = make_record(stage, settings, atlas.version(stage), inputs)
        if _identity(files[-1]) != record["identity"]:
            print(stage, files[-1].name, flush=True)
            began = time.perf_counter()
            with recording(record):
                function(*files, **as_arguments(settings))
            self.seconds[stage] = time.perf_counter() - began


def _identity(path: Path) -> str | None:
    return read_record(path if path.suffix == ".json" else path / "zarr.json").get("identity")
