"""Fetch, convert or make the base model (rules prepare_model, prepare_base)."""

from pathlib import Path

from sae_atlas.base_models.prepare import prepare
from sae_atlas.log import job_log
from sae_atlas.plan.stages.versions import record_of

with job_log(snakemake.log[0]):
    settings = snakemake.params.settings
    prepare(
        snakemake.output.provenance,
        settings,
        record=record_of(snakemake.params.stage, settings, snakemake.params.version, snakemake.params.inputs),
        made=Path(snakemake.input.made).parent if snakemake.input.get("made") else None,
    )
