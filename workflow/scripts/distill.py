"""Train students on the base model's logits (rule distill)."""

from sae_atlas.floors.distill import distill
from sae_atlas.log import job_log
from sae_atlas.provenance import make_record

with job_log(snakemake.log[0]):
    settings, inputs = snakemake.params.settings, snakemake.params.inputs
    distill(
        snakemake.input.base_model,
        snakemake.input.corpus,
        snakemake.output.table,
        **settings,
        record=make_record(snakemake.rule, settings, snakemake.params.code, inputs),
        expects=inputs,
        device=snakemake.resources.device,
        threads=snakemake.threads,
    )
