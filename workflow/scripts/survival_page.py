"""Write the page that compares the atlases of three stages (rule survival_page)."""

from pathlib import Path

from sae_atlas.log import job_log
from sae_atlas.report.survival import write_page

with job_log(snakemake.log[0]):
    params, record = snakemake.params, snakemake.params.record
    names = list(params.comparisons.values())
    folders = [Path(meta).parent for meta in snakemake.input.models]
    write_page(
        dict(zip(names, snakemake.input.tables, strict=True)),
        dict(zip(params.stages, folders, strict=True)),
        {stage: f"../../../{stage}/results/index.html" for stage in params.stages},
        snakemake.output.page,
        snakemake.output.png,
        snakemake.output.svg,
        **record["settings"],
        record=record,
        expects=dict(zip(names, record["inputs"].values(), strict=True)),
    )
