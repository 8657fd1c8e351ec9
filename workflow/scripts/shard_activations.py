"""Make one layer's store from one window's activations (rule shard_activations)."""

from sae_atlas.activations.shard import shard_activations
from sae_atlas.log import job_log
from sae_atlas.plan.stages.activations import shard_arguments
from sae_atlas.plan.stages.versions import record_of

with job_log(snakemake.log[0]):
    settings, inputs = snakemake.params.settings, snakemake.params.inputs
    shard_activations(
        snakemake.input.activations,
        snakemake.output.store,
        **shard_arguments(settings),
        record=record_of("shard_activations", settings, snakemake.params.version, inputs),
        expects=inputs,
    )
