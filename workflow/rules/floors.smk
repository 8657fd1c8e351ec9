# Distillation floors: what a narrower student is predicted to lose, and what trained students lose.


rule floors:
    """Predicted floors of every layer of a recipe: as published, and with the two corrections of the kept count."""
    input:
        blocks=needs(of_all_layers("results/metrics/{recipe}/layer{layer:02d}_blocks.parquet")),
    output:
        table=update("results/floors/{recipe}/floors.parquet"),
    log:
        "results/logs/floors/{recipe}.log",
    conda:
        "../../envs/atlas.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(20),
    params:
        **job("floors", layers=atlas.layers),
    message:
        "floors: {wildcards.recipe}"
    script:
        "../scripts/run.py"


rule distill:
    """Train students of all widths and seeds side by side on the base model's logits, and measure their floors."""
    input:
        base_model=needs(PROVENANCE),
        corpus=needs(CORPUS),
    output:
        table=update("results/students.parquet"),
    log:
        "results/logs/distill.log",
    conda:
        "../../envs/atlas.yaml"
    threads: threads_of("distill")
    resources:
        **asked("distill"),
        gpu=GPUS,
        device=MODEL_DEVICE,
    params:
        **job("distill"),
    message:
        "students: distilled from the base model"
    script:
        "../scripts/run.py"


rule fit_floors:
    """The measured floors on the predicted ones of every layer, beside a curve that knows nothing of the latents."""
    input:
        floors=needs("results/floors/{recipe}/floors.parquet"),
        students=needs("results/students.parquet"),
    output:
        table=update("results/floors/{recipe}/fit.parquet"),
    log:
        "results/logs/fit_floors/{recipe}.log",
    conda:
        "../../envs/atlas.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(20),
    params:
        **job("fit_floors"),
    message:
        "fit of the floors: {wildcards.recipe}"
    script:
        "../scripts/run.py"
