"""Architectures: one file each, its loss, its active entries and their gradient; and the trained SAE at inference."""

from importlib import import_module
from types import ModuleType


def architecture(name: str) -> ModuleType:
    """The module of an architecture named in a recipe (sae_atlas/training/recipe.py lists them)."""
    return import_module(f"sae_atlas.saes.{name}")
