"""Make the tokenizer of a model that is yet to be trained (rule make_tokenizer)."""

from sae_atlas.base_models.prepare import make_tokenizer
from sae_atlas.log import job_log
from sae_atlas.provenance import make_record

with job_log(snakemake.log[0]):
    settings = snakemake.params.settings
    make_tokenizer(
        snakemake.output.provenance,
        settings["tokenizer"],
        record=make_record("make_tokenizer", settings, snakemake.params.code, snakemake.params.inputs),
    )
