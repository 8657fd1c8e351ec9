# Scores and names of the latents, from what top_contexts kept.


rule score_latents:
    """AUROC of every latent for every topic, entropy of its tokens, position bias; topics probed from few latents."""
    input:
        documents=needs("results/features/{recipe}/layer{layer}_documents.parquet"),
        raw=needs("results/features/{recipe}/layer{layer}_raw.parquet"),
        features=needs("results/features/{recipe}/layer{layer}_features.parquet"),
        corpus=needs(CORPUS),
        base_model=needs(PROVENANCE),
    output:
        scores=update("results/features/{recipe}/layer{layer}_scores.parquet"),
        probes=update("results/features/{recipe}/layer{layer}_probes.parquet"),
    log:
        "results/logs/score_latents/{recipe}/layer{layer}.log",
    conda:
        "../../envs/atlas.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        **job("score_latents"),
    message:
        "scores: {wildcards.recipe}, layer {wildcards.layer}"
    script:
        "../scripts/run.py"


rule name_latents:
    """Name every alive latent, and try the name on text that it was not made from."""
    input:
        contexts=needs("results/features/{recipe}/layer{layer}_contexts.parquet"),
        features=needs("results/features/{recipe}/layer{layer}_features.parquet"),
        documents=needs("results/features/{recipe}/layer{layer}_documents.parquet"),
        raw=needs("results/features/{recipe}/layer{layer}_raw.parquet"),
        corpus=needs(CORPUS),
        base_model=needs(PROVENANCE),
    output:
        names=update("results/features/{recipe}/layer{layer}_names.parquet"),
    log:
        "results/logs/name_latents/{recipe}/layer{layer}.log",
    conda:
        "../../envs/atlas.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(240),
    params:
        **job("name_latents", row_texts=ROW_TEXTS),
    message:
        "names: {wildcards.recipe}, layer {wildcards.layer}"
    script:
        "../scripts/name_latents.py"
