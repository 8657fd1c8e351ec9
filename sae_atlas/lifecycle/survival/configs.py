"""Three atlases from the config of a merged model: of its base from scratch, of base and adapter, and of the merge."""

from sae_atlas.config.own_models import adapter_name
from sae_atlas.io.errors import AtlasError
from sae_atlas.stages.atlas import Atlas

STAGES = ("pretrained", "lora", "merged")
# What is compared with what. The last is the control: one function twice, so what differs is rounding and training.
COMPARED = (("pretrained", "lora"), ("pretrained", "merged"), ("lora", "merged"))


def three_configs(config: dict) -> dict[str, dict]:
    """Stage -> the config of its atlas: they differ in `base_model` alone. Raises AtlasError for another base model."""
    base_model = config.get("base_model")
    base = base_model.get("base") if isinstance(base_model, dict) else None
    if not isinstance(base, dict) or (base_model.get("source"), base.get("source")) != ("merged", "pretrain"):
        raise AtlasError(
            "base_model.source: three stages are those of a `merged` model with a base of source `pretrain`; see "
            "config/lifecycle.yaml"
        )
    if not isinstance(base_model.get("name"), str):
        raise AtlasError("base_model.name: missing, or no text; see config/lifecycle.yaml")
    same = {key: base_model[key] for key in ("dtype",) if key in base_model}
    models = {
        "pretrained": base_model["base"] | same,
        "lora": base_model | {"source": "lora", "name": adapter_name(base_model)},
        "merged": base_model,
    }
    return {stage: config | {"base_model": model} for stage, model in models.items()}


def identities(atlas: Atlas, recipe: str) -> dict:
    """Identities of the inputs of lifecycle.survival.compare that an atlas must have."""
    cells = {layer: {"recipe": recipe, "layer": layer} for layer in atlas.layers}
    return {
        "checkpoints": {layer: atlas.checkpoint(recipe, layer) for layer in cells},
        "latents": {layer: atlas.identity("evaluate_sae", **cell) for layer, cell in cells.items()},
        "held_out": atlas.identity("save_held_out"),
    }
