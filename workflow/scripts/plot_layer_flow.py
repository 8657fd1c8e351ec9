"""Flow of the latents through the layers of one recipe (rule plot_layer_flow)."""

from sae_atlas.figures.layer_flow import plot_layer_flow
from sae_atlas.log import job_log
from sae_atlas.plan.stages.versions import record_of

with job_log(snakemake.log[0]):
    settings, inputs = snakemake.params.settings, snakemake.params.inputs
    plot_layer_flow(
        snakemake.input.flow,
        snakemake.output.png,
        snakemake.output.svg,
        **settings,
        record=record_of("plot_layer_flow", settings, snakemake.params.version, inputs),
        expects=inputs["flow"],
    )
