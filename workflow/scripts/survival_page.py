"""Write the page that compares the atlases of three stages (rule survival_page)."""

from sae_atlas.log import job_log
from sae_atlas.provenance import make_record
from sae_atlas.report.survival import write_page

with job_log(snakemake.log[0]):
    params, recipe = snakemake.params, snakemake.wildcards.recipe
    settings = {"recipe": recipe, "colour_map": params.colour_map}
    names = list(params.comparisons.values())
    write_page(
        dict(zip(names, snakemake.input.tables, strict=True)),
        dict(zip(params.stages, snakemake.input.models, strict=True)),
        {stage: f"../../../{stage}/results/index.html" for stage in params.stages},
        snakemake.output.page,
        snakemake.output.png,
        snakemake.output.svg,
        **settings,
        record=make_record("survival_page", settings, params.code, params.expects),
        expects=dict(zip(names, params.expects.values(), strict=True)),
    )
