"""The section `features`, and where it contradicts the others."""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from sae_atlas.config.activations import Activations
from sae_atlas.config.base_model import Model
from sae_atlas.config.keys import Layers, Number, Section, Text, Whole, Words, each_once, key, later
from sae_atlas.config.layers import named_layers
from sae_atlas.config.texts import Corpus
from sae_atlas.io.errors import AtlasError

HERE = ("localhost", "127.0.0.1", "::1")
Url = Annotated[
    str,
    Field(strict=True, pattern=r"^https?://[^\s@?#]+$"),
    Words("an address (https://api.openai.com/v1) without user, query and key"),
]
Variable = Annotated[
    str,
    Field(strict=True, pattern=r"^[A-Z_][A-Z0-9_]*$"),
    Words("capital letters, digits and underscores (NAMING_KEY)"),
]


class Scores(Section):
    """Scores of the latents without a language model."""

    permutations: Whole = key(
        "times the topics are shuffled: the baseline is the 95% point of the best AUROC", 199, ge=19, le=100_000
    )
    seed: Whole = key("seed of the shuffles and of the probes' folds", 0, ge=0)


class Price(Section):
    """Dollars per million tokens, for the estimate in the log before the first request."""

    input: Number = key("price of what is asked", ge=0)
    output: Number = key("price of the answers", ge=0)


class Endpoint(Section):
    """A chat endpoint that is compatible with OpenAI's."""

    url: Url = key("what `/chat/completions` is appended to")
    model: Text = key("name of the model", min_length=1)
    key_variable: Variable = key(
        "name of the environment variable that holds the key, never the key itself", otherwise="none: no key is sent"
    )
    latents: Whole = key("latents per layer that the model names, the most important first", 200, ge=1)
    batch: Whole = key("latents in one request", 8, ge=1, le=100)
    price: Price = key(otherwise="no estimate")


NameScores = Annotated[
    list[Literal["fuzzing", "intruder"]],
    AfterValidator(each_once),
    Words("a list of `fuzzing` and `intruder`, each once"),
]


class Names(Section):
    """Names of the latents: made offline for all; where there is an endpoint, by its model for the most important."""

    endpoint: Endpoint = key(otherwise="all names are made offline")
    scores: NameScores = later(
        "scores beside detection: `fuzzing` (does the name tell at which marked token the latent fires?), `intruder` (of "
        "windows in which it fires and one in which it does not, can that one be told?). An endpoint is asked for them, too",
        [],
    )


class Features(Section):
    """What the latents mean."""

    layers: Layers = key("layers whose latents are looked at, among `activations.layers`", "all")
    split: Literal["train", "held_out"] = key(
        "text that contexts are taken from: `train` (the end of the train text, which no SAE has seen if the corpus is longer "
        "than the training; it needs a forward pass) or `held_out` (what evaluation reads; it needs none)",
        "train",
    )
    tokens: Whole = key("tokens that are read of split `train`. By default no more than there are", 40_000, ge=1)
    contexts: Whole = key(
        "contexts kept per latent, of distinct documents, with the highest activations. At each of three lower quantiles a "
        "third as many are kept",
        10,
        ge=1,
        le=1000,
    )
    window: Whole = key("tokens kept around a peak, at most", 24, ge=1, le=1024)
    scores: Scores = key(None, Scores)
    names: Names = key(None, Names)


def problems(features: Features, corpus: Corpus):
    if "tokens" in features.model_fields_set:
        if features.split == "held_out":
            yield "features.tokens: does nothing with split `held_out`, which reads evaluation.tokens; remove it"
        if features.tokens > corpus.tokens:
            beyond = f"{features.tokens} is beyond the corpus ({corpus.tokens})"
            yield f"features.tokens: {beyond}; raise corpus.tokens or read fewer"
    endpoint = features.names.endpoint
    url = urlsplit(endpoint.url if endpoint else "")
    if endpoint and endpoint.key_variable and url.scheme == "http" and url.hostname not in HERE:
        yield f"features.names.endpoint.url: {url.hostname} would get the key unencrypted; use https"


def layer_problems(features: Features, activations: Activations, base_model: Model):
    if features.layers == "all":
        return
    try:
        trained = named_layers(activations.layers, base_model.plain())
    except AtlasError:  # reported where activations.layers is checked
        return
    chosen = named_layers(features.layers, base_model.plain())
    missing = [layer for layer in chosen if layer not in trained]
    if missing:
        yield f"features.layers: layer {missing[0]} is not among activations.layers; there is no SAE of it"
    if not chosen:
        yield f"features.layers: {features.layers!r} names no layer; write it from small to large"


def completed(features: dict, layers: list[int], corpus_tokens: int) -> dict:
    """The plain section with its layers as a list of those of the atlas, and no more tokens than there are."""
    chosen = features["layers"]
    chosen = layers if chosen == "all" else named_layers(chosen, {})
    return {**features, "layers": chosen, "tokens": min(features["tokens"], corpus_tokens)}
