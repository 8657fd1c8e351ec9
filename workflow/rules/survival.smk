# Which latents of a base model survive its fine-tuning: rules of workflow/three_stages.smk, between atlases.


rule compare_latents:
    """Match every latent of one atlas in another, and read one model's latents in the other model."""
    input:
        unpack(both_sides),
    output:
        table=update("results/survival/{recipe}/{comparison}.parquet"),
    log:
        "results/logs/compare_latents/{recipe}/{comparison}.log",
    conda:
        "../../envs/atlas.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: 6000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        **job(COMPARE, layers=LAYERS),
    message:
        "compare: {wildcards.comparison}, {wildcards.recipe}"
    script:
        "../scripts/run.py"


rule survival_page:
    """What survives fine-tuning: a table, a figure, the latents that change most."""
    input:
        tables=tables_of,
        models=models_compared,
    output:
        page=update("results/survival/{recipe}/index.html"),
        png=update("results/survival/{recipe}/survival.png"),
        svg=update("results/survival/{recipe}/survival.svg"),
    log:
        "results/logs/survival_page/{recipe}.log",
    localrule: True
    conda:
        "../../envs/atlas.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 10 * attempt,
    params:
        **job(
            PAGE,
            comparisons=[f"{before} to {after}" for before, after in COMPARISONS.values()],
            stages=list(MODELS),
        ),
    message:
        "page: {output.page}"
    script:
        "../scripts/run.py"
