"""TransformerLens reads a folder in transformers format, but for one step that takes only names of models that it knows."""

from pathlib import Path

from transformer_lens import loading_from_pretrained

known = loading_from_pretrained.get_official_model_name


def read_folders() -> None:
    """From now on HookedTransformer.from_pretrained takes the path of a folder as the model's name."""
    loading_from_pretrained.get_official_model_name = lambda name: name if Path(name).is_dir() else known(name)
