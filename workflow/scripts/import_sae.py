"""Take over an SAE that others published (rule import_sae)."""

from sae_atlas.exports.import_sae import import_sae
from sae_atlas.log import job_log
from sae_atlas.plan.stages.versions import record_of

with job_log(snakemake.log[0]):
    settings, inputs = snakemake.params.settings, snakemake.params.inputs
    import_sae(
        snakemake.input.base_model,
        snakemake.output.checkpoint,
        **settings,
        record=record_of("import_sae", settings, snakemake.params.version, inputs),
        expects=inputs,
    )
