"""The explorer depends on the tables about the latents, on the final SAEs and on the text and tokens that it shows."""

from sae_atlas.stages.declare import stage
from sae_atlas.stages.publishing import sources

# Table of a layer (results/features/RECIPE/layerLL_TABLE.parquet) -> the stage that makes it.
TABLES = {
    "features": "top_contexts",
    "contexts": "top_contexts",
    "scores": "score_latents",
    "names": "name_latents",
    "evolution": "evolution",
    "matches": "contexts_of_matches",
}


def explored_cells(atlas) -> list[tuple[str, int]]:
    """(recipe, layer) of what the explorer shows, in its order."""
    return [(recipe, layer) for recipe in atlas.recipes for layer in atlas.feature_layers]


@stage(
    "pages/explorer",
    "features/decoder.py",
    "texts/labels.py",
    "io/tables.py",
    "metrics/directions.py",
    "saes/checkpoint.py",
    runs="pages.explorer.build:write_explorer",
)
def explorer(atlas) -> tuple[dict, dict]:
    settings = {"base": atlas.config["base_model"]["name"], "site": atlas.site_words}
    inputs = sources(atlas) | atlas.row_texts()
    for recipe, layer in explored_cells(atlas):
        cell, name = {"recipe": recipe, "layer": layer}, f"{recipe} layer{layer:02d}"
        identities = {table: atlas.identity(stage, **cell) for table, stage in TABLES.items()}
        identities["checkpoint"] = atlas.checkpoint(recipe, layer)
        inputs |= {f"{name} {file}": identity for file, identity in identities.items()}
    return settings, inputs
