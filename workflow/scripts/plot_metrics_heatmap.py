"""Heatmap of one recipe's metrics (rule plot_metrics_heatmap)."""

from sae_atlas.figures.metrics_heatmap import plot_metrics_heatmap
from sae_atlas.log import job_log

with job_log(snakemake.log[0]):
    plot_metrics_heatmap(
        snakemake.input.metrics,
        snakemake.output.png,
        snakemake.output.svg,
        recipe=snakemake.wildcards.recipe,
        title=snakemake.params.title,
        colour_map=snakemake.params.colour_map,
    )
