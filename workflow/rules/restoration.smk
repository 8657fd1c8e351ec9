# The restoration model for other programs. Nothing else asks for it: `snakemake results/base_model/transformer_lens.pt`.


if BASE_MODEL["source"] == "restoration":

    rule convert_transformer_lens:
        """The base model for TransformerLens, which must be installed; written once every layer and the logits agree."""
        input:
            base_model=needs(PROVENANCE, by_time=True),
        output:
            model=update("results/base_model/transformer_lens.pt"),
        log:
            "results/logs/convert_transformer_lens.log",
        conda:
            "../../envs/atlas.yaml"
        resources:
            mem_mb=growing(4000),
            runtime=growing(30),
        params:
            **export_for_others("publish.formats.transformer_lens:convert_transformer_lens"),
        message:
            "base model: for TransformerLens"
        script:
            "../scripts/run.py"
