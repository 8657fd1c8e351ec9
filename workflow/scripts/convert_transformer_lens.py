"""The base model as TransformerLens has it (rule convert_transformer_lens)."""

from sae_atlas.base_models.load import load
from sae_atlas.exports.transformer_lens import convert_transformer_lens
from sae_atlas.log import job_log

with job_log(snakemake.log[0]):
    model, _ = load(snakemake.input.base_model, "float32", snakemake.params.inputs["base_model"], "cpu")
    convert_transformer_lens(model, snakemake.output.model)
