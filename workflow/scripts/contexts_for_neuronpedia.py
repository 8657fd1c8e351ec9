"""Latents of one layer as Neuronpedia reads them (rule contexts_for_neuronpedia)."""

from sae_atlas.features.as_json import contexts_for_neuronpedia
from sae_atlas.log import job_log

with job_log(snakemake.log[0]):
    contexts_for_neuronpedia(
        snakemake.input.contexts,
        snakemake.input.features,
        snakemake.input.base_model,
        snakemake.output.json,
        **snakemake.params.names,
        expects=snakemake.params.inputs,
    )
