"""Score the latents of one layer without a language model (rule score_latents)."""

from pathlib import Path

from sae_atlas.features.scores import score_latents
from sae_atlas.log import job_log
from sae_atlas.plan.stages.versions import record_of

with job_log(snakemake.log[0]):
    settings, inputs = snakemake.params.settings, snakemake.params.inputs
    score_latents(
        snakemake.input.documents,
        snakemake.input.raw,
        snakemake.input.features,
        Path(snakemake.input.corpus).parent,
        snakemake.input.base_model,
        snakemake.output.scores,
        snakemake.output.probes,
        **settings,
        record=record_of("score_latents", settings, snakemake.params.version, inputs),
        expects=inputs,
    )
