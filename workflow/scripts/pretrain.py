"""Train a base model from scratch (rule pretrain)."""

from sae_atlas.lifecycle.pretrain import pretrain
from sae_atlas.log import job_log
from sae_atlas.provenance import make_record

with job_log(snakemake.log[0]):
    settings, inputs = snakemake.params.settings, snakemake.params.inputs
    pretrain(
        snakemake.input.tokenizer,
        snakemake.input.corpus,
        snakemake.output.folder,
        settings,
        record=make_record("pretrain", settings, snakemake.params.code, inputs),
        expects=inputs,
        device=snakemake.resources.device,
    )
