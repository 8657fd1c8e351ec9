"""One forward pass over the text that contexts are taken from (rule save_text)."""

from sae_atlas.activations.save import save_activations
from sae_atlas.log import job_log
from sae_atlas.provenance import make_record

with job_log(snakemake.log[0]):
    settings, inputs = snakemake.params.settings, snakemake.params.inputs
    save_activations(
        snakemake.input.base_model,
        snakemake.input.corpus,
        snakemake.output.activations,
        layers=snakemake.params.layers,
        **settings,
        record=make_record("save_text", settings, snakemake.params.code, inputs),
        expects=inputs,
        device=snakemake.resources.device,
    )
