"""Compare the latents of two atlases on the same held-out text (rule compare_latents)."""

from pathlib import Path

from sae_atlas.log import job_log
from sae_atlas.metrics.survival import compare_latents

with job_log(snakemake.log[0]):
    layers = snakemake.params.layers
    before, after = (
        {
            "checkpoints": dict(zip(layers, snakemake.input[f"{side}_checkpoints"], strict=True)),
            "latents": dict(zip(layers, snakemake.input[f"{side}_latents"], strict=True)),
            "held_out": Path(snakemake.input[f"{side}_held_out"][0]).parents[1],
        }
        for side in ("before", "after")
    )
    compare_latents(
        before, after, snakemake.output.table, record=snakemake.params.record, expects=snakemake.params.expects
    )
