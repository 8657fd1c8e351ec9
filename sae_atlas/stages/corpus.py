"""The corpus depends on its text, sizes and seed, and on the base model's tokenizer."""

from sae_atlas.stages.base_model import tokenizer_stage
from sae_atlas.stages.declare import stage


@stage(
    "corpus.py",
    "row_corpus.py",
    "texts",
    "io/arrays.py",
    runs="corpus:tokenize",
    on_rows="row_corpus:number_rows",
)
def tokenize(atlas) -> tuple[dict, dict]:
    inputs = {"base_model": atlas.identity(tokenizer_stage(atlas)), **atlas.content("tokenize")}
    return corpus_settings(atlas.config["corpus"]), inputs


def row_texts_of(corpus: dict) -> dict | None:
    """Where the text of the rows of saved activations is; None where they have none."""
    if corpus["source"] != "rows" or "path" not in corpus:
        return None
    return {key: corpus[key] for key in ("path", "field") if key in corpus}


def corpus_settings(corpus: dict) -> dict:
    """Of a section that says text, sizes and seed."""
    sizes = {
        "context": corpus["context"],
        "train_tokens": corpus["tokens"],
        "held_out_tokens": corpus["held_out_tokens"],
        "seed": corpus["seed"],
    }
    if corpus["source"] == "rows":  # what they are called changes no number
        return {"text": {"source": "rows"}, **sizes}
    text = {key: value for key, value in corpus.items() if key not in ("name", "tokens", *sizes)}
    return {"text": text, **sizes}
