# Evaluation on held-out text: what does not depend on the SAE once per base model, then all snapshots of a layer.


rule save_held_out:
    """Clean pass over the held-out contexts and ablated passes of every layer, kept for all recipes and snapshots."""
    input:
        base_model=needs(PROVENANCE),
        corpus=needs(CORPUS),
    output:
        update(list(map(held_out, atlas.layers))),
        clean=update("results/held_out.zarr/zarr.json"),
    log:
        "results/logs/save_held_out.log",
    conda:
        "../../envs/atlas.yaml"
    threads: threads_of("save_held_out")
    resources:
        **asked("save_held_out"),
        gpu=GPUS,
        device=MODEL_DEVICE,
    params:
        **job("save_held_out", layers=atlas.layers, **SAVED),
    message:
        "held-out: clean and ablated passes"
    script:
        "../scripts/run.py"


rule evaluate_sae:
    """Measure every snapshot of one layer: reconstruction, sparsity, and the model's loss through the SAE."""
    input:
        base_model=needs(PROVENANCE),
        held_out=needs(lambda wildcards: held_out(wildcards.layer)),
        checkpoints=needs(checkpoints_of_layer),
    output:
        table=update("results/metrics/{recipe}/layer{layer}.parquet"),
        latents=update("results/metrics/{recipe}/layer{layer}_latents.parquet"),
        blocks=update("results/metrics/{recipe}/layer{layer}_blocks.parquet"),
        json=update("results/metrics/{recipe}/layer{layer}.json"),
    log:
        "results/logs/evaluate_sae/{recipe}/layer{layer}.log",
    conda:
        "../../envs/atlas.yaml"
    resources:
        **asked("evaluate_sae"),
        gpu=GPUS,
        device=MODEL_DEVICE,
    params:
        **job("evaluate_sae", snapshots=published_snapshots),
        kept_resume_point=lambda wildcards: atlas.kept_resume_point(wildcards.recipe),
    message:
        "evaluate: {wildcards.recipe}, layer {wildcards.layer}"
    script:
        "../scripts/evaluate_sae.py"


rule known_truth:
    """Measure every snapshot of one layer against the true features of its synthetic rows."""
    input:
        base_model=needs(PROVENANCE),
        held_out=needs(lambda wildcards: held_out(wildcards.layer)),
        checkpoints=needs(checkpoints_of_layer),
    output:
        table=update("results/metrics/{recipe}/layer{layer}_known_truth.parquet"),
    log:
        "results/logs/known_truth/{recipe}/layer{layer}.log",
    conda:
        "../../envs/atlas.yaml"
    resources:
        **asked("known_truth"),
        gpu=GPUS,
        device=MODEL_DEVICE,
    params:
        **job("known_truth", snapshots=published_snapshots),
    message:
        "known truth: {wildcards.recipe}, layer {wildcards.layer}"
    script:
        "../scripts/run.py"


rule replace_layers:
    """The model's loss when the transcoders of more and more layers take their targets' place at once."""
    input:
        base_model=needs(PROVENANCE),
        held_out=needs("results/held_out.zarr/zarr.json"),
        checkpoints=needs(of_all_layers(CHECKPOINT)),
    output:
        table=update("results/metrics/{recipe}/replaced_layers.parquet"),
    log:
        "results/logs/replace_layers/{recipe}.log",
    conda:
        "../../envs/atlas.yaml"
    threads: threads_of("replace_layers")
    resources:
        **asked("replace_layers"),
        gpu=GPUS,
        device=MODEL_DEVICE,
    params:
        **job("replace_layers", layers=atlas.layers),
    message:
        "many layers replaced: {wildcards.recipe}"
    script:
        "../scripts/run.py"


rule collect_metrics:
    """One tidy table of a recipe: layer, snapshot, metric, value, interval."""
    input:
        tables=needs(metric_tables),
    output:
        table=update("results/metrics/{recipe}.parquet"),
    log:
        "results/logs/collect_metrics/{recipe}.log",
    localrule: True
    conda:
        "../../envs/atlas.yaml"
    resources:
        mem_mb=growing(1000),
        runtime=growing(10),
    params:
        **job("collect_metrics"),
    message:
        "table: {wildcards.recipe}"
    script:
        "../scripts/run.py"


use rule collect_metrics as collect_recipes with:
    input:
        tables=needs(expand("results/metrics/{recipe}.parquet", recipe=atlas.recipes)),
    output:
        table=report(
            update("results/metrics.parquet"),
            caption="../report/metrics_table.rst",
            category="2 Is it good",
            labels={"recipe": "all", "figure": "table of all metrics (Parquet)"},
        ),
    log:
        "results/logs/collect_recipes.log",
    params:
        **job("collect_recipes"),
    message:
        "table: all recipes"


rule match_layers:
    """Best match of every latent in the neighbouring layers, by the cosine of their decoder rows."""
    input:
        checkpoints=needs(of_all_layers(CHECKPOINT)),
        latents=needs(of_all_layers(LATENTS)),
    output:
        table=update("results/metrics/{recipe}/flow.parquet"),
    log:
        "results/logs/match_layers/{recipe}.log",
    conda:
        "../../envs/atlas.yaml"
    threads: threads_of("match_layers")
    resources:
        **asked("match_layers"),
    params:
        **job("match_layers", layers=atlas.layers),
    message:
        "flow: {wildcards.recipe}"
    script:
        "../scripts/run.py"


rule match_seeds:
    """Best match of every latent among those of the same recipe with other seeds."""
    input:
        checkpoints=needs(of_all_layers(CHECKPOINT)),
        latents=needs(of_all_layers(LATENTS)),
        others=needs(finals_of_other_seeds),
    output:
        table=update("results/metrics/{recipe}/seeds.parquet"),
    log:
        "results/logs/match_seeds/{recipe}.log",
    conda:
        "../../envs/atlas.yaml"
    threads: threads_of("match_seeds")
    resources:
        **asked("match_seeds"),
    params:
        **job("match_seeds", layers=atlas.layers),
    message:
        "seeds: {wildcards.recipe}"
    script:
        "../scripts/run.py"
