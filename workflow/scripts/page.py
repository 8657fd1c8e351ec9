"""The page of the whole atlas and its cards (rule page)."""

from collections import defaultdict
from pathlib import Path

from sae_atlas.log import job_log
from sae_atlas.provenance import make_record
from sae_atlas.report.page import write_page

with job_log(snakemake.log[0]):
    settings = snakemake.params.settings
    figures = defaultdict(list)
    for path in snakemake.input.figures:
        figures[Path(path).parent.name].append(path)  # of a recipe
    write_page(
        snakemake.input.metrics,
        snakemake.input.base_model,
        snakemake.input.corpus,
        snakemake.input.cards,
        snakemake.input.releases,
        figures,
        Path(snakemake.output.page).parent / "benchmarks",
        snakemake.params.jobs,
        snakemake.output.page,
        snakemake.output.cards,
        **settings,
        record=make_record("page", settings, snakemake.params.code, snakemake.params.inputs),
        expects=snakemake.params.inputs,
        evaluations=snakemake.params.evaluations,
    )
