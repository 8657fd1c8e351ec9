"""What the best matches of one layer's latents fire on (rule contexts_of_matches)."""

from sae_atlas.features.matches import contexts_of_matches
from sae_atlas.features.text import held_out_text, train_text
from sae_atlas.log import job_log
from sae_atlas.provenance import make_record

with job_log(snakemake.log[0]):
    settings, places = snakemake.params.settings, snakemake.params.places
    inputs, files = snakemake.params.inputs, snakemake.input
    read = held_out_text if "held_out" in inputs else train_text
    activations = dict(zip([settings["layer"], *places["layers"]], files.activations, strict=True))
    contexts_of_matches(
        files.evolution,
        dict(zip(places["snapshots"], files.earlier, strict=True)),
        dict(zip(places["layers"], files.neighbours, strict=True)),
        lambda layer: read(files.corpus, activations[layer], layer, inputs),
        snakemake.output.table,
        **settings,
        record=make_record("contexts_of_matches", settings, snakemake.params.code, inputs),
        expects=inputs,
        device=snakemake.resources.device,
    )
