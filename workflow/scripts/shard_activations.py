"""Make one layer's store from one window's activations (rule shard_activations)."""

from sae_atlas.activations.shard import shard_activations
from sae_atlas.log import job_log
from sae_atlas.provenance import make_record

with job_log(snakemake.log[0]):
    settings, inputs = snakemake.params.settings, snakemake.params.inputs
    shard_activations(
        snakemake.input.activations,
        snakemake.output.store,
        **settings,
        record=make_record("shard_activations", settings, snakemake.params.code, inputs),
        expects=inputs,
    )
