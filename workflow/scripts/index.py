"""List all published SAEs and check their folders (rule index)."""

from pathlib import Path

from sae_atlas.exports.index import write_index
from sae_atlas.log import job_log
from sae_atlas.provenance import make_record

with job_log(snakemake.log[0]):
    output, settings = Path(snakemake.output.table), snakemake.params.settings
    record = make_record("index", settings, snakemake.params.code, snakemake.params.inputs)
    write_index(output.parents[1], output, record)
