"""Take over an SAE that others published (rule import_sae)."""

from sae_atlas.exports.import_sae import import_sae
from sae_atlas.log import job_log
from sae_atlas.provenance import make_record

with job_log(snakemake.log[0]):
    settings, inputs = snakemake.params.settings, snakemake.params.inputs
    import_sae(
        snakemake.input.base_model,
        snakemake.output.checkpoint,
        **settings,
        record=make_record("import_sae", settings, snakemake.params.code, inputs),
        expects=inputs,
    )
