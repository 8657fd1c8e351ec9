"""A recipe of the config, complete: one that trains, or one whose SAEs others published."""

from sae_atlas.errors import AtlasError
from sae_atlas.plan.limits import limit_problems
from sae_atlas.plan.pretrained import check_pretrained
from sae_atlas.training.recipe import Recipe


def complete_recipe(recipe: dict, where: str) -> dict:
    """The recipe with its defaults; raises AtlasError with a line per problem."""
    complete = check_pretrained(recipe, where) if "pretrained" in recipe else Recipe.from_dict(recipe, where).to_dict()
    if problems := limit_problems(complete, where):  # numbers that were written as text: `inf`
        raise AtlasError("\n".join(problems))
    return complete
