"""Make the tokenizer of a model that is yet to be trained (rule make_tokenizer)."""

from sae_atlas.base_models.prepare import make_tokenizer
from sae_atlas.log import job_log
from sae_atlas.plan.stages.versions import record_of

with job_log(snakemake.log[0]):
    settings = snakemake.params.settings
    make_tokenizer(
        snakemake.output.provenance,
        settings["tokenizer"],
        record=record_of("make_tokenizer", settings, snakemake.params.version, snakemake.params.inputs),
    )
