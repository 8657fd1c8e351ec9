"""Publish the SAE of one layer with its card (rule model_card)."""

from pathlib import Path

from sae_atlas.cards.model_card import write_model_card
from sae_atlas.exports.published import export_saelens
from sae_atlas.log import job_log
from sae_atlas.plan.stages.versions import record_of

with job_log(snakemake.log[0]):
    settings, inputs = snakemake.params.settings, snakemake.params.inputs
    export_saelens(
        snakemake.input.checkpoint,
        snakemake.input.base_model,
        Path(snakemake.input.corpus).parent,
        Path(snakemake.output.card).parent,
        base=settings["base"],
        text=settings["text"],
        expects=inputs,
    )
    write_model_card(
        snakemake.input.checkpoint,
        snakemake.input.metrics,
        snakemake.input.base_model,
        Path(snakemake.input.corpus).parent,
        Path(snakemake.output.card).parent,
        name=snakemake.wildcards.sae,
        **settings,
        record=record_of("model_card", settings, snakemake.params.version, inputs),
        expects=inputs,
    )
