"""The page of the whole atlas and its cards (rule page)."""

from sae_atlas.log import job_log
from sae_atlas.provenance import make_record
from sae_atlas.report.page import write_page

with job_log(snakemake.log[0]):
    settings, recipes, figures = snakemake.params.settings, snakemake.params.recipes, snakemake.input.figures
    each = len(figures) // len(recipes)
    write_page(
        snakemake.input.metrics,
        snakemake.input.base_model,
        snakemake.input.corpus,
        snakemake.input.cards,
        snakemake.input.releases,
        {recipe: figures[place * each : (place + 1) * each] for place, recipe in enumerate(recipes)},
        "results/benchmarks",
        snakemake.params.jobs,
        snakemake.output.page,
        snakemake.output.cards,
        **settings,
        record=make_record(snakemake.rule, settings, snakemake.params.code, snakemake.params.inputs),
        expects=snakemake.params.inputs,
        evaluations=snakemake.params.evaluations,
    )
