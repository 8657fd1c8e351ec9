"""Importances of the latents of one recipe (rule plot_importance_spectrum)."""

from sae_atlas.figures.importance_spectrum import plot_importance_spectrum
from sae_atlas.log import job_log
from sae_atlas.plan.stages.versions import record_of

with job_log(snakemake.log[0]):
    settings, inputs = snakemake.params.settings, snakemake.params.inputs
    plot_importance_spectrum(
        dict(zip(snakemake.params.layers, snakemake.input.latents, strict=True)),
        snakemake.input.metrics,
        snakemake.output.png,
        snakemake.output.svg,
        **settings,
        record=record_of("plot_importance_spectrum", settings, snakemake.params.version, inputs),
        expects=inputs,
    )
