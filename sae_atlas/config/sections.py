"""The whole config: its sections, and those of them that only say how things look."""

from typing import Annotated, Literal

from pydantic import Field

from sae_atlas.config.activations import Activations
from sae_atlas.config.base_model import Model
from sae_atlas.config.features import Features
from sae_atlas.config.keys import Name, Section, Text, Words, key
from sae_atlas.config.measurement import Evaluation, Floors
from sae_atlas.config.recipes import Published, Recipe
from sae_atlas.config.texts import Corpus
from sae_atlas.config.training import Training


class Figures(Section):
    """How figures look."""

    colour_map: Literal["viridis", "cividis", "plasma", "inferno", "magma"] = key(
        "a perceptually uniform matplotlib colour map", "viridis"
    )


class Release(Section):
    """What cards and release pages say of their origin."""

    author: Text = key("name or organisation on the cards", "")
    licence: Text = key("SPDX id in the front matter of release pages", "apache-2.0")


class Config(Section):
    """SAE Atlas config"""

    base_model: Model = key()
    corpus: Corpus = key()
    activations: Activations = key(None, Activations)
    training: Training = key()
    recipes: Annotated[dict[Name, Recipe | Published], Field(min_length=1), Words("a section of recipes by name")] = (
        key("SAE training configurations by name. Each is trained on every layer")
    )
    evaluation: Evaluation = key(None, Evaluation)
    floors: Floors = key(otherwise="none are computed")
    features: Features = key(otherwise="nothing is done about it")
    figures: Figures = key(None, Figures)
    release: Release = key(None, Release)
