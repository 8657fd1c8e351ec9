"""Distillation floors of one recipe (rule plot_loss_floor_predictions)."""

from sae_atlas.figures.loss_floor_predictions import plot_loss_floor_predictions
from sae_atlas.log import job_log
from sae_atlas.plan.stages.versions import record_of

with job_log(snakemake.log[0]):
    settings, inputs = snakemake.params.settings, snakemake.params.inputs
    plot_loss_floor_predictions(
        snakemake.input.floors,
        snakemake.input.get("students") or None,
        snakemake.input.get("fit") or None,
        snakemake.output.png,
        snakemake.output.svg,
        **settings,
        record=record_of("plot_loss_floor_predictions", settings, snakemake.params.version, inputs),
        expects=inputs,
    )
