"""The base model depends on where it comes from, not on what it is called or computed in."""

from sae_atlas.plan.stages.declare import stage


@stage("base_models")
def prepare_model(atlas) -> tuple[dict, dict]:
    return {key: value for key, value in atlas.config["base_model"].items() if key not in ("name", "dtype")}, {}
