"""Match the latents of one layer with its earlier snapshots and the neighbouring layers (rule evolution)."""

from sae_atlas.features.evolution import evolution
from sae_atlas.log import job_log
from sae_atlas.provenance import make_record

with job_log(snakemake.log[0]):
    settings, inputs = snakemake.params.settings, snakemake.params.inputs
    evolution(
        snakemake.input.checkpoint,
        dict(zip(settings["snapshots"], snakemake.input.earlier, strict=True)),
        dict(zip(settings["layers"], snakemake.input.neighbours, strict=True)),
        snakemake.output.table,
        record=make_record("evolution", settings, snakemake.params.code, inputs),
        expects=inputs,
    )
