"""Merge an adapter into the base model's weights (rule merge_lora)."""

from pathlib import Path

from sae_atlas.lifecycle.lora import merge_lora
from sae_atlas.log import job_log
from sae_atlas.plan.stages.versions import record_of

with job_log(snakemake.log[0]):
    settings, inputs = snakemake.params.settings, snakemake.params.inputs
    merge_lora(
        snakemake.input.base_model,
        Path(snakemake.input.adapter).parent,
        Path(snakemake.input.corpus).parent,
        Path(snakemake.output.meta).parent,
        record=record_of("merge_lora", settings, snakemake.params.version, inputs),
        expects=inputs,
    )
