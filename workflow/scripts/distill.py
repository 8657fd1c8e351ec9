"""Train students on the base model's logits (rule distill)."""

from pathlib import Path

from sae_atlas.floors.distill import distill
from sae_atlas.log import job_log
from sae_atlas.plan.stages.versions import record_of

with job_log(snakemake.log[0]):
    settings, inputs = snakemake.params.settings, snakemake.params.inputs
    distill(
        snakemake.input.base_model,
        Path(snakemake.input.corpus).parent,
        snakemake.output.table,
        **settings,
        record=record_of("distill", settings, snakemake.params.version, inputs),
        expects=inputs,
        device=snakemake.resources.device,
        threads=snakemake.threads,
    )
