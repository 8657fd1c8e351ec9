"""Clean and ablated passes over the held-out contexts (rule save_held_out)."""

from pathlib import Path

from sae_atlas.log import job_log
from sae_atlas.metrics.held_out import save_held_out
from sae_atlas.plan.stages.versions import record_of

with job_log(snakemake.log[0]):
    settings, inputs = snakemake.params.settings, snakemake.params.inputs
    save_held_out(
        snakemake.input.base_model,
        Path(snakemake.input.corpus).parent,
        Path(snakemake.output.clean).parent,
        layers=snakemake.params.layers,
        **settings,
        record=record_of("save_held_out", settings, snakemake.params.version, inputs),
        expects=inputs,
        device=snakemake.resources.device,
    )
