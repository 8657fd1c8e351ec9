"""Train an adapter of the base model (rule fine_tune_lora)."""

from pathlib import Path

from sae_atlas.lifecycle.lora import fine_tune_lora
from sae_atlas.log import job_log
from sae_atlas.plan.stages.versions import record_of

with job_log(snakemake.log[0]):
    settings, inputs = snakemake.params.settings, snakemake.params.inputs
    fine_tune_lora(
        snakemake.input.base_model,
        Path(snakemake.input.corpus).parent,
        Path(snakemake.output.meta).parent,
        settings,
        record=record_of("fine_tune_lora", settings, snakemake.params.version, inputs),
        expects=inputs,
        device=snakemake.resources.device,
    )
