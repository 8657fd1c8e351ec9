"""Pages to browse the latents (rule explorer)."""

from pathlib import Path

from sae_atlas.features.decoder import Decoder
from sae_atlas.features.explorer.build import TABLES, Source, write_explorer
from sae_atlas.log import job_log
from sae_atlas.plan.stages.versions import record_of

with job_log(snakemake.log[0]):
    settings, inputs, files = snakemake.params.settings, snakemake.params.inputs, dict(snakemake.input.items())
    tables = {name: files[name] for name in TABLES if name in files}
    sources = [
        Source(recipe, layer, {name: paths[place] for name, paths in tables.items()}, files["checkpoints"][place])
        for place, (recipe, layer) in enumerate(snakemake.params.shown)
    ]
    write_explorer(
        Path(snakemake.output.page).parent,
        Path(files["corpus"]).parent,
        Decoder.of_model(files["base_model"], inputs["base_model"]),
        sources,
        **settings,
        record=record_of("explorer", settings, snakemake.params.version, inputs),
        expects=inputs,
    )
