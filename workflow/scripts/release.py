"""Publish all layers and snapshots of one recipe (rule release)."""

from pathlib import Path

from sae_atlas.cards.release import write_release
from sae_atlas.log import job_log
from sae_atlas.plan.stages.versions import record_of

with job_log(snakemake.log[0]):
    settings, inputs = snakemake.params.settings, snakemake.params.inputs
    layers, snapshots = snakemake.params.layers, snakemake.params.snapshots
    files = iter(snakemake.input.checkpoints)  # layer by layer, snapshots in order
    write_release(
        {layer: {snapshot: next(files) for snapshot in snapshots} for layer in layers},
        dict(zip(layers, snakemake.input.metrics, strict=True)),
        snakemake.input.figures,
        snakemake.input.base_model,
        Path(snakemake.input.corpus).parent,
        snakemake.output.readme,
        name=snakemake.wildcards.release,
        **settings,
        record=record_of("release", settings, snakemake.params.version, inputs),
        expects=inputs,
    )
