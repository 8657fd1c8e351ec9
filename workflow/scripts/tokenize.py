"""Turn the text into contexts (rules tokenize, tokenize_domain)."""

from pathlib import Path

from sae_atlas.base_models.load import load_tokenizer
from sae_atlas.corpus import tokenize
from sae_atlas.log import job_log
from sae_atlas.plan.stages.versions import record_of

with job_log(snakemake.log[0]):
    settings, inputs = snakemake.params.settings, snakemake.params.inputs
    tokenize(
        Path(snakemake.output.corpus).parent,
        tokenizer=load_tokenizer(snakemake.input.base_model, expected=inputs["base_model"]),
        **settings,
        record=record_of(snakemake.params.stage, settings, snakemake.params.version, inputs),
    )
