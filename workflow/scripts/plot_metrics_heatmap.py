"""Heatmap of one recipe's metrics (rule plot_metrics_heatmap)."""

from sae_atlas.figures.metrics_heatmap import plot_metrics_heatmap
from sae_atlas.log import job_log
from sae_atlas.plan.stages.versions import record_of

with job_log(snakemake.log[0]):
    settings, inputs = snakemake.params.settings, snakemake.params.inputs
    plot_metrics_heatmap(
        snakemake.input.metrics,
        snakemake.output.png,
        snakemake.output.svg,
        **settings,
        record=record_of("plot_metrics_heatmap", settings, snakemake.params.version, inputs),
        expects=list(inputs.values()),
    )
