"""One tidy table from many (rules collect_metrics, collect_recipes)."""

from sae_atlas.log import job_log
from sae_atlas.metrics.collect import collect

with job_log(snakemake.log[0]):
    collect(snakemake.input.tables, snakemake.output.table, expects=snakemake.params.evaluations)
