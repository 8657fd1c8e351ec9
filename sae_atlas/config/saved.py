"""Rows in place of a base model's activations (without_model.OF_ROWS): what has no effect then, and what cannot be."""

from sae_atlas.config.activations import Activations
from sae_atlas.config.base_model import Model
from sae_atlas.config.features import Features
from sae_atlas.config.measurement import Evaluation
from sae_atlas.config.texts import Corpus
from sae_atlas.config.without_model import OF_MODELS, OF_ROWS, ROWS


def source_problems(base_model: Model, corpus: Corpus):
    if base_model.source in OF_ROWS and corpus.source != "rows":
        yield (
            f"corpus.source: {corpus.source!r} is text, which no model reads where base_model.source is `{base_model.source}`; "
            "write `rows`"
        )
    if base_model.source == "synthetic" and corpus.path:
        yield f"corpus.path: {ROWS[base_model.source]} have no text; remove it"
    if corpus.source == "rows" and base_model.source not in OF_ROWS:
        yield (
            f"corpus.source: `rows` are those of saved activations; write base_model.source `activations` and their path, or "
            f"the text that {base_model.name} reads"
        )


def key_problems(base_model: Model, activations: Activations, evaluation: Evaluation):
    if base_model.source not in OF_ROWS:
        return
    rows = ROWS[base_model.source]
    sections = {"base_model": base_model, "activations": activations, "evaluation": evaluation}
    for name, keys in OF_MODELS.items():
        for key in sorted({*keys} & sections[name].model_fields_set):
            yield f"{name}.{key}: does nothing with {rows}, which no model is read for; remove it"
    if activations.target is not None:
        yield f"activations.target: transcoders need a model that gives both sites; {rows} are one; remove it"


def recipe_problems(base_model: Model, recipes: dict):
    for name, recipe in recipes.items():
        if base_model.source in OF_ROWS and getattr(recipe, "finetune", None):
            yield f"recipes.{name}.finetune: needs the loss of a model, and {ROWS[base_model.source]} have none; remove it"


def features_problems(base_model: Model, features: Features):
    if base_model.source in OF_ROWS and features.names.endpoint:
        yield "features.names.endpoint: names what language models read; rows are named by their text alone; remove it"
