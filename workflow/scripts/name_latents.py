"""Name the latents of one layer (rule name_latents)."""

from pathlib import Path

from sae_atlas.features.names import name_latents
from sae_atlas.log import job_log
from sae_atlas.provenance import make_record

with job_log(snakemake.log[0]):
    settings, inputs = snakemake.params.settings, snakemake.params.inputs
    endpoint = (snakemake.config["features"].get("names") or {}).get("endpoint", {})
    name_latents(
        snakemake.input.contexts,
        snakemake.input.features,
        snakemake.input.documents,
        snakemake.input.raw,
        snakemake.input.corpus,
        snakemake.input.base_model,
        snakemake.output.names,
        **settings,
        record=make_record("name_latents", settings, snakemake.params.code, inputs),
        expects=inputs,
        cache=Path(snakemake.output.names).parents[1] / "answers",
        price=endpoint.get("price"),  # these two change no name, so they are no settings
        key_variable=endpoint.get("key_variable"),
    )
