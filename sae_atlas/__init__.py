"""SAE Atlas: a sparse autoencoder for every layer of a language model, at every training snapshot."""

from importlib import import_module

from sae_atlas.io.caches import keep_caches_elsewhere

keep_caches_elsewhere()  # before any library looks for its own

_HOMES = {name: "use" for name in ("attribute", "capture", "load_base_model", "load_model", "load_sae", "patch")}
_HOMES["train_sae"] = "from_array"
__all__ = list(_HOMES)


def __getattr__(name: str):
    """The names above, loaded when first used: rules that need no torch do not wait for it."""
    if name in _HOMES:
        return getattr(import_module(f"sae_atlas.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
