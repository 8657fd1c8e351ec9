"""What the latents of one layer fire on (rule top_contexts)."""

from pathlib import Path

from sae_atlas.features.text import held_out_text, train_text
from sae_atlas.features.top_contexts import top_contexts
from sae_atlas.log import job_log
from sae_atlas.plan.stages.versions import record_of

with job_log(snakemake.log[0]):
    settings, inputs = snakemake.params.settings, snakemake.params.inputs
    corpus, activations = Path(snakemake.input.corpus).parent, Path(snakemake.input.activations)
    if "held_out" in inputs:
        text = held_out_text(corpus, activations.parents[1], settings["layer"], inputs)
    else:
        text = train_text(corpus, activations, settings["layer"], inputs)
    top_contexts(
        text,
        snakemake.input.base_model,
        snakemake.input.checkpoint,
        snakemake.output.contexts,
        snakemake.output.features,
        snakemake.output.documents,
        snakemake.output.raw,
        **settings,
        record=record_of("top_contexts", settings, snakemake.params.version, inputs),
        expects=inputs,
        device=snakemake.resources.device,
    )
