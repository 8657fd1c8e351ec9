"""Merge an adapter into the base model's weights (rule merge_lora)."""

from sae_atlas.lifecycle.lora import merge_lora
from sae_atlas.log import job_log
from sae_atlas.provenance import make_record

with job_log(snakemake.log[0]):
    settings, inputs = snakemake.params.settings, snakemake.params.inputs
    merge_lora(
        snakemake.input.base_model,
        snakemake.input.adapter,
        snakemake.input.corpus,
        snakemake.output.folder,
        record=make_record("merge_lora", settings, snakemake.params.code, inputs),
        expects=inputs,
    )
