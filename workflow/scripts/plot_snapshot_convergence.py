"""Metrics over the snapshots of one recipe (rule plot_snapshot_convergence)."""

from sae_atlas.figures.snapshot_convergence import plot_snapshot_convergence
from sae_atlas.log import job_log
from sae_atlas.plan.stages.versions import record_of

with job_log(snakemake.log[0]):
    settings, inputs = snakemake.params.settings, snakemake.params.inputs
    plot_snapshot_convergence(
        snakemake.input.metrics,
        snakemake.output.png,
        snakemake.output.svg,
        **settings,
        record=record_of("plot_snapshot_convergence", settings, snakemake.params.version, inputs),
        expects=list(inputs.values()),
    )
