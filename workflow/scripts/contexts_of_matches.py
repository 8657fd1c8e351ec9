"""What the best matches of one layer's latents fire on (rule contexts_of_matches)."""

from pathlib import Path

from sae_atlas.features.matches import contexts_of_matches
from sae_atlas.features.text import held_out_text, train_text
from sae_atlas.log import job_log
from sae_atlas.plan.stages.versions import record_of

with job_log(snakemake.log[0]):
    settings, places = snakemake.params.settings, snakemake.params.places
    inputs, files = snakemake.params.inputs, snakemake.input
    activations = dict(zip([settings["layer"], *places["layers"]], map(Path, files.activations), strict=True))

    def text(layer):
        if "held_out" in inputs:
            return held_out_text(Path(files.corpus).parent, activations[layer].parents[1], layer, inputs)
        return train_text(Path(files.corpus).parent, activations[layer], layer, inputs)

    contexts_of_matches(
        files.evolution,
        dict(zip(places["snapshots"], files.earlier, strict=True)),
        dict(zip(places["layers"], files.neighbours, strict=True)),
        text,
        snakemake.output.table,
        **settings,
        record=record_of("contexts_of_matches", settings, snakemake.params.version, inputs),
        expects=inputs,
        device=snakemake.resources.device,
    )
