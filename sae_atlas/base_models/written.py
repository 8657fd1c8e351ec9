"""Write a model's folder so that transformers 4 reads it as the same model: it knows other names than 5 for the same things."""

from pathlib import Path

from sae_atlas.io.files import read_json, write_json

# transformers 4's names for what 5 keeps in `rope_parameters`, by model type. Without them 4 takes its defaults, silently.
ROTARY = {
    "llama": {"rope_theta": "rope_theta"},
    "gpt_neox": {"rotary_emb_base": "rope_theta", "rotary_pct": "partial_rotary_factor"},
}


def write_folder(folder: Path, tokenizer, model=None) -> None:
    """A tokenizer, and the model that it is of if there is one, in transformers format."""
    if model is not None:
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    add_older_names(folder)


def add_older_names(folder: Path) -> None:
    """Add them to the folder's config.json and tokenizer_config.json, as far as they are there; 5 reads both."""
    file = folder / "config.json"
    if file.is_file():
        config = read_json(file)
        rotary = config.get("rope_parameters") or {}
        names = ROTARY.get(config["model_type"], {})
        older = {name: rotary[newer] for name, newer in names.items() if newer in rotary}
        write_json(file, config | older | ({"torch_dtype": config["dtype"]} if config.get("dtype") else {}))
    file = folder / "tokenizer_config.json"
    if file.is_file():
        settings = read_json(file)
        if settings.get("tokenizer_class") == "TokenizersBackend":
            write_json(file, settings | {"tokenizer_class": "PreTrainedTokenizerFast"})
