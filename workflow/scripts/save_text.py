"""One forward pass over the text that contexts are taken from (rule save_text)."""

from pathlib import Path

from sae_atlas.activations.save import save_activations
from sae_atlas.log import job_log
from sae_atlas.plan.stages.versions import record_of

with job_log(snakemake.log[0]):
    settings, inputs = snakemake.params.settings, snakemake.params.inputs
    save_activations(
        snakemake.input.base_model,
        Path(snakemake.input.corpus).parent,
        snakemake.output.activations,
        layers=snakemake.params.layers,
        **settings,
        record=record_of("save_text", settings, snakemake.params.version, inputs),
        expects=inputs,
        device=snakemake.resources.device,
    )
