"""What the latents of one layer fire on (rule top_contexts)."""

from sae_atlas.features.text import held_out_text, train_text
from sae_atlas.features.top_contexts import top_contexts
from sae_atlas.log import job_log
from sae_atlas.provenance import make_record

with job_log(snakemake.log[0]):
    settings, inputs = snakemake.params.settings, snakemake.params.inputs
    read = held_out_text if "held_out" in inputs else train_text
    top_contexts(
        read(snakemake.input.corpus, snakemake.input.activations[0], settings["layer"], inputs),
        snakemake.input.base_model,
        snakemake.input.checkpoint,
        snakemake.output.contexts,
        snakemake.output.features,
        snakemake.output.documents,
        snakemake.output.raw,
        **settings,
        record=make_record("top_contexts", settings, snakemake.params.code, inputs),
        expects=inputs,
        device=snakemake.resources.device,
    )
