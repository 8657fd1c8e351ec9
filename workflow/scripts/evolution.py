"""Match the latents of one layer with its earlier snapshots and the neighbouring layers (rule evolution)."""

from sae_atlas.features.evolution import evolution
from sae_atlas.log import job_log
from sae_atlas.plan.stages.versions import record_of

with job_log(snakemake.log[0]):
    settings, inputs = snakemake.params.settings, snakemake.params.inputs
    evolution(
        snakemake.input.checkpoint,
        dict(zip(settings["snapshots"], snakemake.input.earlier, strict=True)),
        dict(zip(settings["layers"], snakemake.input.neighbours, strict=True)),
        snakemake.output.table,
        record=record_of("evolution", settings, snakemake.params.version, inputs),
        expects=inputs,
    )
