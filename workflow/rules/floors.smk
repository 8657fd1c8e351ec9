# Distillation floors: what a narrower student is predicted to lose.


rule floors:
    """Predicted floors of every layer of a recipe: as published, and with the two corrections of the kept count."""
    input:
        blocks=lambda wildcards: expand(
            "results/metrics/{recipe}/layer{layer:02d}_blocks.parquet", recipe=wildcards.recipe, layer=atlas.layers
        ),
    output:
        table="results/floors/{recipe}/floors.parquet",
    log:
        "results/logs/floors/{recipe}.log",
    benchmark:
        "results/benchmarks/floors/{recipe}.tsv"
    conda:
        "../../envs/atlas.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(20),
    params:
        settings=settings("floors"),
        layers=atlas.layers,
        code=code("floors"),
        inputs=inputs("floors"),
    message:
        "floors: {wildcards.recipe}"
    script:
        "../scripts/floors.py"
