"""Compare the latents of two atlases on the same held-out text (rule compare_latents)."""

from sae_atlas.log import job_log
from sae_atlas.metrics.survival import compare_latents

with job_log(snakemake.log[0]):
    layers = snakemake.params.layers
    before, after = (
        {
            "checkpoints": dict(zip(layers, snakemake.input[f"{side}_checkpoints"], strict=True)),
            "latents": dict(zip(layers, snakemake.input[f"{side}_latents"], strict=True)),
            "held_out": snakemake.input[f"{side}_held_out"],
        }
        for side in ("before", "after")
    )
    compare_latents(
        before, after, snakemake.output.table, record=snakemake.params.record, expects=snakemake.params.expects
    )
