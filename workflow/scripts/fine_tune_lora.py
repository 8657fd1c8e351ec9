"""Train an adapter of the base model (rule fine_tune_lora)."""

from sae_atlas.lifecycle.lora import fine_tune_lora
from sae_atlas.log import job_log
from sae_atlas.provenance import make_record

with job_log(snakemake.log[0]):
    settings, inputs = snakemake.params.settings, snakemake.params.inputs
    fine_tune_lora(
        snakemake.input.base_model,
        snakemake.input.corpus,
        snakemake.output.folder,
        settings,
        record=make_record("fine_tune_lora", settings, snakemake.params.code, inputs),
        expects=inputs,
        device=snakemake.resources.device,
    )
