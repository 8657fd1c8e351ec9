"""Training curves of one recipe (rule plot_training_curves)."""

from sae_atlas.figures.training_curves import plot_training_curves
from sae_atlas.log import job_log
from sae_atlas.provenance import make_record

with job_log(snakemake.log[0]):
    settings, layers, inputs = snakemake.params.settings, snakemake.params.layers, snakemake.params.inputs
    windows = len(snakemake.input.curves) // len(layers)
    plot_training_curves(
        {layer: snakemake.input.curves[place * windows : (place + 1) * windows] for place, layer in enumerate(layers)},
        snakemake.output.png,
        snakemake.output.svg,
        **settings,
        record=make_record("plot_training_curves", settings, snakemake.params.code, inputs),
        expects=inputs,
    )
