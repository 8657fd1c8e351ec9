"""Predicted floors depend on the evaluations and the widths asked for."""

from sae_atlas.plan.stages.declare import stage
from sae_atlas.plan.stages.evaluation import evaluations


@stage("floors/formula.py", "floors/predict.py", "metrics/bootstrap.py", "metrics/importance.py", "metrics/tables.py")
def floors(atlas, recipe: str) -> tuple[dict, dict]:
    return {"recipe": recipe, "widths": atlas.config["floors"]["widths"]}, evaluations(atlas, recipe)
