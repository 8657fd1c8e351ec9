"""The section `training`, and where it contradicts itself, the text or the model."""

import itertools
from typing import Annotated, Literal

from pydantic import Field

from sae_atlas.config.base_model import Model
from sae_atlas.config.keys import Section, Whole, Words, key
from sae_atlas.config.recipes import Published
from sae_atlas.config.texts import Corpus


class Training(Section):
    """How long every recipe trains and where its snapshots lie."""

    tokens: Whole = key("train tokens in all. The snapshot there is called `final`", ge=1)
    snapshots: Annotated[list[Annotated[Whole, Field(ge=1)]], Words("a list of token counts", "[50M, 100M]")] = key(
        "token counts of the snapshots before the final one, ascending", []
    )
    tracker: Literal["tensorboard", "mlflow", "wandb"] = key(
        "where the training curves are sent to as well, while they grow: `tensorboard` (files in `results/tracker/`), `mlflow` "
        "or `wandb`, which must be installed, with `accelerate`. Changing it trains nothing again",
        otherwise="nowhere",
    )
    device: Literal["auto", "cpu", "cuda"] = key(
        "where training, forward passes and measurement compute: `auto` (a GPU where the job finds one), `cpu`, or `cuda` (the "
        "job asks the cluster for a GPU, and fails where it finds none). Changing it makes nothing again",
        "auto",
    )
    gpu_products: Literal["bfloat16", "float32"] = key(
        "arithmetic of the training step's matrix products on a GPU. Weights, sums and Adam are float32 in both",
        "bfloat16",
    )


def problems(training: Training):
    snapshots, tokens = training.snapshots, training.tokens
    if any(later <= earlier for earlier, later in itertools.pairwise(snapshots)):
        yield "training.snapshots: not ascending; list the token counts from small to large, each once"
    if training.device == "cpu" and "gpu_products" in training.model_fields_set:
        yield "training.gpu_products: does nothing with device `cpu`; remove it"
    if snapshots and max(snapshots) >= tokens:
        yield f"training.snapshots: {max(snapshots)} is not below training.tokens ({tokens}), where the final snapshot lies"


def device_problems(training: Training, base_model: Model):
    if training.device == "cpu" and base_model.device_map:
        yield "base_model.device_map: takes the GPUs that there are, training.device is `cpu`; remove one of them"


def length_problems(training: Training, corpus: Corpus, recipes: dict):
    published = all(isinstance(recipe, Published) for recipe in recipes.values())
    if training.tokens > corpus.tokens and not published:
        yield (
            f"training.tokens: {training.tokens} is beyond the corpus ({corpus.tokens}); raise corpus.tokens or train on fewer"
        )
    shortest = min(stop - start for start, stop in itertools.pairwise([0, *training.snapshots, training.tokens]))
    for name, recipe in recipes.items():
        if not isinstance(recipe, Published) and recipe.batch > shortest > 0:
            yield (
                f"recipes.{name}.batch: {recipe.batch} is more than the {shortest} tokens of the shortest window between "
                "snapshots; lower it"
            )


def completed(training: dict) -> dict:
    """The plain section without `device` and `tracker`, which change no numbers."""
    return {name: value for name, value in training.items() if name not in ("device", "tracker")}
