"""Train a base model from scratch (rule pretrain)."""

from pathlib import Path

from sae_atlas.lifecycle.pretrain import pretrain
from sae_atlas.log import job_log
from sae_atlas.plan.stages.versions import record_of

with job_log(snakemake.log[0]):
    settings, inputs = snakemake.params.settings, snakemake.params.inputs
    pretrain(
        snakemake.input.tokenizer,
        Path(snakemake.input.corpus).parent,
        Path(snakemake.output.meta).parent,
        settings,
        record=record_of("pretrain", settings, snakemake.params.version, inputs),
        expects=inputs,
        device=snakemake.resources.device,
    )
