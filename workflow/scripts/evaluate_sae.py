"""Measure all snapshots of one layer on held-out text (rule evaluate_sae)."""

from sae_atlas.errors import AtlasError
from sae_atlas.log import job_log
from sae_atlas.metrics.evaluate import evaluate
from sae_atlas.provenance import make_record

with job_log(snakemake.log[0]):
    settings, inputs = snakemake.params.settings, snakemake.params.inputs
    if not snakemake.input.get("held_out"):
        raise AtlasError(
            f"{snakemake.output.json}: was measured on these very data; to measure again, delete it and rerun"
        )
    evaluate(
        snakemake.input.held_out,
        snakemake.input.base_model,
        dict(zip(snakemake.params.snapshots, snakemake.input.checkpoints, strict=True)),
        snakemake.output.table,
        snakemake.output.latents,
        snakemake.output.blocks,
        snakemake.output.json,
        **settings,
        record=make_record("evaluate_sae", settings, snakemake.params.code, inputs),
        expects=inputs,
        device=snakemake.resources.device,
    )
