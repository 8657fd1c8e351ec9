"""List all published SAEs and check their folders (rule index)."""

from pathlib import Path

from sae_atlas.exports.index import write_index
from sae_atlas.log import job_log
from sae_atlas.plan.stages.versions import record_of

with job_log(snakemake.log[0]):
    output, settings = Path(snakemake.output.table), snakemake.params.settings
    record = record_of("index", settings, snakemake.params.version, snakemake.params.inputs)
    write_index(output.parents[1], output, record)
