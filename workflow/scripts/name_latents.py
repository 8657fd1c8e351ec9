"""Name the latents of one layer (rule name_latents)."""

from pathlib import Path

from sae_atlas.features.names import name_latents
from sae_atlas.log import job_log
from sae_atlas.plan.stages.versions import record_of

with job_log(snakemake.log[0]):
    settings, inputs = snakemake.params.settings, snakemake.params.inputs
    endpoint = (snakemake.config["features"].get("names") or {}).get("endpoint", {})
    name_latents(
        snakemake.input.contexts,
        snakemake.input.features,
        snakemake.input.documents,
        snakemake.input.raw,
        Path(snakemake.input.corpus).parent,
        snakemake.input.base_model,
        snakemake.output.names,
        **settings,
        record=record_of("name_latents", settings, snakemake.params.version, inputs),
        expects=inputs,
        cache=Path(snakemake.output.names).parents[1] / "answers",
        price=endpoint.get("price"),  # these two change no name, so they are no settings
        key_variable=endpoint.get("key_variable"),
    )
