"""Densities of the latents of one recipe (rule plot_feature_density)."""

from sae_atlas.figures.feature_density import plot_feature_density
from sae_atlas.log import job_log
from sae_atlas.plan.stages.versions import record_of

with job_log(snakemake.log[0]):
    settings, inputs = snakemake.params.settings, snakemake.params.inputs
    plot_feature_density(
        dict(zip(snakemake.params.layers, snakemake.input.latents, strict=True)),
        snakemake.output.png,
        snakemake.output.svg,
        **settings,
        record=record_of("plot_feature_density", settings, snakemake.params.version, inputs),
        expects=inputs,
    )
