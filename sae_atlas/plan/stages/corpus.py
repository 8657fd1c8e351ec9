"""The corpus depends on its text, sizes and seed, and on the base model's tokenizer."""

from sae_atlas.plan.stages.declare import stage


@stage("corpus.py", "arrays.py")
def tokenize(atlas) -> tuple[dict, dict]:
    corpus = atlas.config["corpus"]
    sizes = {
        "context": corpus["context"],
        "train_tokens": corpus["tokens"],
        "held_out_tokens": corpus["held_out_tokens"],
        "seed": corpus["seed"],
    }
    text = {key: value for key, value in corpus.items() if key not in ("name", "tokens", *sizes)}
    return {"text": text, **sizes}, {"base_model": atlas.identity("prepare_model")}
