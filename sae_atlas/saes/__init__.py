"""Architectures, one file each with its loss and its gradient from active entries; and the trained SAE at inference."""

from importlib import import_module
from types import ModuleType


def architecture(name: str) -> ModuleType:
    """The module of an architecture named in a recipe (saes/architectures.py lists them)."""
    return import_module(f"sae_atlas.saes.{name}")
