"""The section `base_model.generator`: a generative model, whose rows stand in place of activations."""

from sae_atlas.config.keys import Number, Section, Whole, key
from sae_atlas.io.errors import AtlasError


class Hierarchy(Section):
    """Trees of features, each of which is active only where its parent is."""

    roots: Whole = key("trees. Features that are in none stand alone", ge=1)
    children: Whole = key("children of every feature above the lowest level", 4, ge=1)
    depth: Whole = key("levels below the roots", 1, ge=1, le=8)
    exclusive: Number = key(
        "share of the parents of whose children at most one is active in a row, evenly spread over them",
        0.0,
        ge=0,
        le=1,
    )


class Generator(Section):
    """The generative model of `synthetic` rows: a row is the sum of its active features' directions, each times a magnitude."""

    d: Whole = key("dimensions of a row", 256, ge=2)
    features: Whole = key(
        "true features. Their directions are orthogonal; of more of them than there are dimensions (superposition) nearly so",
        1024, ge=2, le=2**17,
    )  # fmt: skip
    l0: Number = key("true L0: features active in a row, on average", 16, gt=0)
    zipf: Number = key(
        "exponent of Zipf's law: a feature is active with a probability proportional to rank^-zipf, cut at 0.5. 0: all alike",
        0.5, ge=0, le=4,
    )  # fmt: skip
    correlation: Number = key(
        "share of the variance of each feature's normal variable that lies in 25 factors which all share: the features without "
        "a parent are active where their variable is high (a Gaussian copula), and keep their probabilities",
        0.0, ge=0, le=0.99,
    )  # fmt: skip
    hierarchy: Hierarchy = key(otherwise="none: features are active whatever others are, but for `correlation`")
    magnitude: Number = key("mean magnitude of an active feature", 1.0, gt=0)
    magnitude_std: Number = key("standard deviation of its magnitude, which is gamma distributed", 0.3, ge=0)
    noise: Number = key("standard deviation of normal noise in every dimension of a row", 0.0, ge=0)
    layers: Whole = key("layers: worlds of the same kind with directions and rows of their own", 1, ge=1, le=100)
    seed: Whole = key("seed of directions and rows", 0, ge=0)


def problems(generator: Generator, where: str):
    """What cannot be drawn: lines that name key and remedy."""
    from sae_atlas.synthetic.features import (
        Forest,
        firing_probabilities,
    )  # here, for other configs are read without arrays

    forest = Forest(generator.features, **(generator.hierarchy.plain() if generator.hierarchy else {}))
    if generator.magnitude_std > 3 * generator.magnitude:
        yield f"{where}.magnitude_std: is more than three times the magnitude, which leaves many active features at 0; lower it"
    try:
        forest.check()
        firing_probabilities(forest, generator.l0, generator.zipf)
    except AtlasError as error:
        yield f"{where}.{error}"
