"""The base model depends on where it comes from, not on what it is called or computed in."""

from sae_atlas.config.own_models import MADE, TUNED, pretraining
from sae_atlas.config.without_model import rows_needed
from sae_atlas.stages.declare import stage

# Source of a base model of our own making -> the stage that makes it.
MAKERS = {"pretrain": "pretrain", "lora": "fine_tune_lora", "merged": "merge_lora"}


@stage(
    "base_models",
    "own_arrays",
    "synthetic",
    runs="base_models.prepare:prepare",
    on_rows="base_models.prepare:prepare_rows",
)
def prepare_model(atlas) -> tuple[dict, dict]:
    return prepared(atlas, atlas.config["base_model"], "prepare_model")


def prepared(atlas, section: dict, stage: str) -> tuple[dict, dict]:
    """Settings and inputs of the stage that makes the model of a section ready, or draws the rows that stand in its place."""
    if section["source"] == "synthetic":
        rows = rows_needed(atlas.config["corpus"])
        return {"source": section["source"], "generator": section["generator"], "rows": rows}, {}
    if section["source"] not in MADE:
        return {key: value for key, value in section.items() if key not in ("name", "dtype")}, atlas.content(stage)
    return {"source": section["source"]}, {"made": atlas.identity(MAKERS[section["source"]])}


def tokenizer_stage(atlas) -> str:
    """The stage whose tokenizer the texts are read with: a model that reads them to be made has none before."""
    base_model = atlas.config["base_model"]
    if pretraining(base_model):
        return "make_tokenizer"
    return "prepare_base" if base_model["source"] in TUNED else "prepare_model"
