"""SAE Atlas: a sparse autoencoder for every layer of a language model, at every training snapshot."""

__all__ = ["capture", "load_base_model", "load_model", "load_sae", "patch", "train_sae"]


def __getattr__(name: str):
    """The names above, loaded when first used: rules that need no torch do not wait for it."""
    if name in __all__:
        from sae_atlas import use

        return getattr(use, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
