"""One recipe among its sister runs, L0 against what is lost (rule plot_pareto)."""

from sae_atlas.figures.pareto import plot_pareto
from sae_atlas.log import job_log
from sae_atlas.plan.stages.versions import record_of

with job_log(snakemake.log[0]):
    settings, inputs = snakemake.params.settings, snakemake.params.inputs
    plot_pareto(
        snakemake.input.metrics,
        snakemake.output.png,
        snakemake.output.svg,
        **settings,
        record=record_of("plot_pareto", settings, snakemake.params.version, inputs),
        expects=list(inputs.values()),
    )
