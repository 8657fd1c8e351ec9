# The explorer: pages to browse the latents, for the layers of the config's section `features`.


rule explorer:
    """Every latent of the final SAEs: search, contexts, promoted tokens, how it formed. Opened from disk: index.html."""
    input:
        **{
            table: needs(explored(f"results/features/{{recipe}}/layer{{layer:02d}}_{table}.parquet"))
            for table in EXPLORED
        },
        base_model=needs(PROVENANCE),
        corpus=needs(CORPUS),
        checkpoints=needs(explored(f"results/checkpoints/{{recipe}}/sae_layer{{layer:02d}}_{atlas.last}.pt")),
    output:
        page=update("results/explorer/index.html"),
    log:
        "results/logs/explorer.log",
    conda:
        "../../envs/atlas.yaml"
    resources:
        **asked("explorer"),
    params:
        **job("explorer", cells=explored_cells(atlas), row_texts=ROW_TEXTS),
    message:
        "explorer: {output.page}"
    script:
        "../scripts/run.py"
