"""Every job of an atlas, by rule, under the name that its log and benchmark have.

The list is what the stages themselves say that they depend on, followed from what rule `all` asks for. Snakemake has it only
once its graph stands: later than the rules that pass it on are read, and after 4 to 20 seconds.
"""

from sae_atlas.stages import STAGES
from sae_atlas.stages.atlas import Atlas
from sae_atlas.stages.figures import figures


def jobs(atlas: Atlas) -> dict[str, list[str]]:
    """Rule -> names of its jobs, in the order data flows. Without a cell of its own a rule has one job, named ``."""
    return {rule: [_name(atlas, rule, cell) for cell in cells] for rule, cells in job_cells(atlas).items()}


def job_cells(atlas: Atlas) -> dict[str, list[dict]]:
    """Rule -> what each of its jobs is made for: its wildcards, layers as numbers, of cards and releases the SAE's cell."""
    visited = _Visited(atlas.config)
    for stage, cell in _targets(atlas):
        visited.identity(stage, **cell)
    cells = visited.cells
    if "save_activations" in cells:
        cells["save_activations"] = [{"snapshot": snapshot, "group": group} for snapshot, group in atlas.passes]
    for stage in {"save_task_text", "save_words"} & set(cells):
        cells[stage] = [{"group": group} for group in atlas.groups]
    if "save_text" in cells:
        cells["save_text"] = [{"part": part} for part in atlas.text_groups]
    return cells


def _targets(atlas: Atlas):
    """Stages and cells that rule `all` names and no other stage depends on."""
    yield from (("collect_metrics", {"recipe": recipe}) for recipe in atlas.recipes)
    yield "collect_recipes", {}
    for recipe in atlas.recipes:
        for figure in figures(atlas, recipe):
            yield f"plot_{figure.partition('_')[2]}", {"recipe": recipe}
    yield "index", {}
    yield from (("release", {"recipe": recipe}) for recipe in atlas.trained)
    if atlas.feature_layers:
        yield "explorer", {}
    yield "page", {}


class _Visited(Atlas):
    """Follows what stages depend on, each cell once, and keeps the cells, inputs before what is made of them."""

    def __init__(self, config: dict):
        super().__init__(config)
        self.cells: dict[str, list[dict]] = {}

    def identity(self, stage: str, **cell) -> str:
        STAGES[stage].of(self, **cell)
        self.cells.setdefault(stage, []).append(cell)
        return ""


def _name(atlas: Atlas, rule: str, cell: dict) -> str:
    if rule == "model_card":
        return atlas.sae_name(**cell)
    if rule == "release":
        return atlas.release_name(**cell)
    parts = cell | ({"layer": f"layer{cell['layer']:02d}"} if "layer" in cell else {})
    name = "_".join(parts[key] for key in ("layer", "snapshot", "group", "part") if key in parts)
    return "/".join(filter(None, [cell.get("recipe"), name]))
