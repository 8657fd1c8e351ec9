"""Fetch, convert or make the base model (rules prepare_model, prepare_base)."""

from sae_atlas.base_models.prepare import prepare
from sae_atlas.log import job_log
from sae_atlas.provenance import make_record

with job_log(snakemake.log[0]):
    settings = snakemake.params.settings
    prepare(
        snakemake.output.provenance,
        settings,
        record=make_record(snakemake.params.stage, settings, snakemake.params.code, snakemake.params.inputs),
        made=snakemake.input.get("made") or None,
    )
