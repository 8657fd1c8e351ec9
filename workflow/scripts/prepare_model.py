"""Fetch, convert or make the base model (rule prepare_model)."""

from sae_atlas.base_models.prepare import prepare
from sae_atlas.log import job_log
from sae_atlas.provenance import make_record

with job_log(snakemake.log[0]):
    settings = snakemake.params.settings
    prepare(
        snakemake.output.provenance,
        settings,
        record=make_record("prepare_model", settings, snakemake.params.code, snakemake.params.inputs),
    )
