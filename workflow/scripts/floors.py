"""Predicted floors of one recipe (rule floors)."""

from sae_atlas.floors.predict import predict_floors
from sae_atlas.log import job_log
from sae_atlas.plan.stages.versions import record_of

with job_log(snakemake.log[0]):
    settings, inputs = snakemake.params.settings, snakemake.params.inputs
    predict_floors(
        dict(zip(snakemake.params.layers, snakemake.input.blocks, strict=True)),
        snakemake.output.table,
        **settings,
        record=record_of("floors", settings, snakemake.params.version, inputs),
        expects=inputs,
    )
