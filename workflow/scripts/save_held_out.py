"""Clean and ablated passes over the held-out contexts (rule save_held_out)."""

from sae_atlas.log import job_log
from sae_atlas.metrics.held_out import save_held_out
from sae_atlas.provenance import make_record

with job_log(snakemake.log[0]):
    settings, inputs = snakemake.params.settings, snakemake.params.inputs
    save_held_out(
        snakemake.input.base_model,
        snakemake.input.corpus,
        snakemake.output.held_out,
        layers=snakemake.params.layers,
        **settings,
        record=make_record("save_held_out", settings, snakemake.params.code, inputs),
        expects=inputs,
        device=snakemake.resources.device,
    )
