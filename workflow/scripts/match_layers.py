"""Match the latents of neighbouring layers of one recipe (rule match_layers)."""

from sae_atlas.log import job_log
from sae_atlas.metrics.flow import match_layers
from sae_atlas.plan.stages.versions import record_of

with job_log(snakemake.log[0]):
    settings, inputs = snakemake.params.settings, snakemake.params.inputs
    layers = snakemake.params.layers
    match_layers(
        dict(zip(layers, snakemake.input.checkpoints, strict=True)),
        dict(zip(layers, snakemake.input.latents, strict=True)),
        snakemake.output.table,
        record=record_of("match_layers", settings, snakemake.params.version, inputs),
        expects=inputs,
    )
