"""Measure all snapshots of one layer on held-out text (rule evaluate_sae)."""

from pathlib import Path

from sae_atlas.log import job_log
from sae_atlas.metrics.evaluate import evaluate
from sae_atlas.plan.stages.versions import record_of

with job_log(snakemake.log[0]):
    settings, inputs = snakemake.params.settings, snakemake.params.inputs
    evaluate(
        Path(snakemake.input.held_out).parents[1],
        snakemake.input.base_model,
        dict(zip(snakemake.params.snapshots, snakemake.input.checkpoints, strict=True)),
        snakemake.output.table,
        snakemake.output.latents,
        snakemake.output.blocks,
        snakemake.output.json,
        **settings,
        record=record_of("evaluate_sae", settings, snakemake.params.version, inputs),
        expects=inputs,
        device=snakemake.resources.device,
    )
    # Snakemake removes a resume point after the next snapshot's training; not one that was there before the run began.
    for checkpoint in snakemake.input.checkpoints[:-1]:
        Path(checkpoint).with_suffix(".resume.pt").unlink(missing_ok=True)
