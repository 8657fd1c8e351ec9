"""Score the latents of one layer without a language model (rule score_latents)."""

from sae_atlas.features.scores import score_latents
from sae_atlas.log import job_log
from sae_atlas.provenance import make_record

with job_log(snakemake.log[0]):
    settings, inputs = snakemake.params.settings, snakemake.params.inputs
    score_latents(
        snakemake.input.documents,
        snakemake.input.raw,
        snakemake.input.features,
        snakemake.input.corpus,
        snakemake.input.base_model,
        snakemake.output.scores,
        snakemake.output.probes,
        **settings,
        record=make_record("score_latents", settings, snakemake.params.code, inputs),
        expects=inputs,
    )
