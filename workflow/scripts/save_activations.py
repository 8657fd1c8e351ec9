"""Read a group of layers in one forward pass over a window (rule save_activations)."""

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
        record=make_record("save_activations", settings, snakemake.params.code, inputs),
        expects=inputs,
        device=snakemake.resources.device,
    )
