"""Contexts of one layer as a list per latent (rule contexts_as_json)."""

from sae_atlas.features.as_json import contexts_as_json
from sae_atlas.log import job_log

with job_log(snakemake.log[0]):
    contexts_as_json(
        snakemake.input.contexts, snakemake.input.base_model, snakemake.output.json, expects=snakemake.params.inputs
    )
