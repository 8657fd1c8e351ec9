"""Turn the text into contexts (rules tokenize, tokenize_domain)."""

from sae_atlas.base_models.load import load_tokenizer
from sae_atlas.corpus import tokenize
from sae_atlas.log import job_log
from sae_atlas.provenance import make_record

with job_log(snakemake.log[0]):
    settings, inputs = snakemake.params.settings, snakemake.params.inputs
    tokenize(
        snakemake.output.corpus,
        tokenizer=load_tokenizer(snakemake.input.base_model, expected=inputs["base_model"]),
        **settings,
        record=make_record(snakemake.params.stage, settings, snakemake.params.code, inputs),
    )
