"""Predicted floors depend on the evaluations, measured ones on the base model and the corpus."""

from sae_atlas.stages.declare import stage
from sae_atlas.stages.evaluation import evaluations


@stage(
    "floors/formula.py",
    "floors/predict.py",
    "metrics/bootstrap.py",
    "metrics/importance.py",
    "io/tables.py",
    runs="floors.predict:predict_floors",
)
def floors(atlas, recipe: str) -> tuple[dict, dict]:
    return {"recipe": recipe, "widths": atlas.config["floors"]["widths"]}, evaluations(atlas, recipe)


@stage(
    "floors/student.py",
    "floors/distill.py",
    "training/learner.py",
    "training/schedule.py",
    "kernels/threads.py",
    "io/tables.py",
    "io/arrays.py",
    "sites",
    runs="floors.distill:distill",
)
def distill(atlas) -> tuple[dict, dict]:
    settings = {**atlas.config["floors"]["students"], "model_dtype": atlas.config["base_model"]["dtype"]}
    return settings, {"base_model": atlas.identity("prepare_model"), "corpus": atlas.identity("tokenize")}


@stage("floors/fit.py", "metrics/bootstrap.py", "io/tables.py", runs="floors.fit:fit_floors")
def fit_floors(atlas, recipe: str) -> tuple[dict, dict]:
    return {"recipe": recipe}, {
        "floors": atlas.identity("floors", recipe=recipe),
        "students": atlas.identity("distill"),
    }
