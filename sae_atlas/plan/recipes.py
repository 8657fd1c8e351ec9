"""A recipe of the config, complete: one that trains, or one whose SAEs others published."""

from sae_atlas.plan.pretrained import check_pretrained
from sae_atlas.training.recipe import Recipe


def complete_recipe(recipe: dict, where: str) -> dict:
    """The recipe with its defaults; raises AtlasError with a line per problem."""
    return check_pretrained(recipe, where) if "pretrained" in recipe else Recipe.from_dict(recipe, where).to_dict()
