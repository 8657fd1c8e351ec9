"""The page of the whole atlas and its cards (rule page)."""

from collections import defaultdict
from pathlib import Path

from sae_atlas.log import job_log
from sae_atlas.plan.stages.versions import record_of
from sae_atlas.report.page import write_page

with job_log(snakemake.log[0]):
    settings = snakemake.params.settings
    figures = defaultdict(list)
    for path in snakemake.input.figures:
        figures[Path(path).parent.name].append(path)  # of a recipe
    write_page(
        snakemake.input.metrics,
        snakemake.input.base_model,
        Path(snakemake.input.corpus).parent,
        [Path(config).with_name("model_card.md") for config in snakemake.input.cards],
        snakemake.input.releases,
        figures,
        Path(snakemake.output.page).parent / "benchmarks",
        snakemake.params.jobs,
        snakemake.output.page,
        snakemake.output.cards,
        **settings,
        record=record_of("page", settings, snakemake.params.version, snakemake.params.inputs),
        expects=snakemake.params.inputs,
        evaluations=snakemake.params.evaluations,
    )
