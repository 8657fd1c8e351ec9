"""Training curves of one recipe (rule plot_training_curves)."""

from sae_atlas.figures.training_curves import plot_training_curves
from sae_atlas.log import job_log
from sae_atlas.plan.stages.versions import record_of

with job_log(snakemake.log[0]):
    settings, layers, inputs = snakemake.params.settings, snakemake.params.layers, snakemake.params.inputs
    windows = len(snakemake.input.curves) // len(layers)
    plot_training_curves(
        {layer: snakemake.input.curves[place * windows : (place + 1) * windows] for place, layer in enumerate(layers)},
        snakemake.output.png,
        snakemake.output.svg,
        **settings,
        record=record_of("plot_training_curves", settings, snakemake.params.version, inputs),
        expects=inputs,
    )
