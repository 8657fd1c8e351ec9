# Figures: PNG to look at, SVG to print, one rule each.


rule plot_training_curves:
    """Loss, L0, alive latents and lambda over the tokens, all layers of a recipe."""
    input:
        curves=needs(
            lambda wildcards: expand(
                "results/curves/{recipe}/layer{layer:02d}_{snapshot}.parquet",
                recipe=wildcards.recipe,
                layer=atlas.layers,
                snapshot=atlas.snapshots,
            )
        ),
    output:
        png=report(
            update("results/figures/{recipe}/1_training_curves.png"),
            caption="../report/training_curves.rst",
            category="4 How did it get there",
            labels={"recipe": "{recipe}", "figure": "training curves"},
        ),
        svg=update("results/figures/{recipe}/1_training_curves.svg"),
    log:
        "results/logs/plot_training_curves/{recipe}.log",
    benchmark:
        "results/benchmarks/plot_training_curves/{recipe}.tsv"
    conda:
        "../../envs/atlas.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        settings=settings("plot_training_curves"),
        layers=atlas.layers,
        version=version("plot_training_curves"),
        inputs=inputs("plot_training_curves"),
    message:
        "figure: training curves of {wildcards.recipe}"
    script:
        "../scripts/plot_training_curves.py"


rule plot_metrics_heatmap:
    """Every metric of every layer at the end, and the headline metrics over the snapshots."""
    input:
        metrics=needs("results/metrics/{recipe}.parquet"),
    output:
        png=report(
            update("results/figures/{recipe}/2_metrics_heatmap.png"),
            caption="../report/metrics_heatmap.rst",
            category="2 Is it good",
            labels={"recipe": "{recipe}", "figure": "metrics heatmap"},
        ),
        svg=update("results/figures/{recipe}/2_metrics_heatmap.svg"),
    log:
        "results/logs/plot_metrics_heatmap/{recipe}.log",
    benchmark:
        "results/benchmarks/plot_metrics_heatmap/{recipe}.tsv"
    conda:
        "../../envs/atlas.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        settings=settings("plot_metrics_heatmap"),
        version=version("plot_metrics_heatmap"),
        inputs=inputs("plot_metrics_heatmap"),
    message:
        "figure: metrics heatmap of {wildcards.recipe}"
    script:
        "../scripts/plot_metrics_heatmap.py"


rule plot_snapshot_convergence:
    """Headline metrics and settled latents at every snapshot, all layers of a recipe."""
    input:
        metrics=needs("results/metrics/{recipe}.parquet"),
    output:
        png=report(
            update("results/figures/{recipe}/3_snapshot_convergence.png"),
            caption="../report/snapshot_convergence.rst",
            category="4 How did it get there",
            labels={"recipe": "{recipe}", "figure": "snapshot convergence"},
        ),
        svg=update("results/figures/{recipe}/3_snapshot_convergence.svg"),
    log:
        "results/logs/plot_snapshot_convergence/{recipe}.log",
    benchmark:
        "results/benchmarks/plot_snapshot_convergence/{recipe}.tsv"
    conda:
        "../../envs/atlas.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        settings=settings("plot_snapshot_convergence"),
        version=version("plot_snapshot_convergence"),
        inputs=inputs("plot_snapshot_convergence"),
    message:
        "figure: snapshot convergence of {wildcards.recipe}"
    script:
        "../scripts/plot_snapshot_convergence.py"


rule plot_feature_density:
    """How often the latents fire, all layers of a recipe."""
    input:
        latents=needs(latents_of_all_layers),
    output:
        png=report(
            update("results/figures/{recipe}/4_feature_density.png"),
            caption="../report/feature_density.rst",
            category="3 Where is it bad",
            labels={"recipe": "{recipe}", "figure": "feature density"},
        ),
        svg=update("results/figures/{recipe}/4_feature_density.svg"),
    log:
        "results/logs/plot_feature_density/{recipe}.log",
    benchmark:
        "results/benchmarks/plot_feature_density/{recipe}.tsv"
    conda:
        "../../envs/atlas.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        settings=settings("plot_feature_density"),
        layers=atlas.layers,
        version=version("plot_feature_density"),
        inputs=inputs("plot_feature_density"),
    message:
        "figure: feature density of {wildcards.recipe}"
    script:
        "../scripts/plot_feature_density.py"


rule plot_importance_spectrum:
    """How much each latent matters, all layers of a recipe."""
    input:
        latents=needs(latents_of_all_layers),
        metrics=needs("results/metrics/{recipe}.parquet"),
    output:
        png=report(
            update("results/figures/{recipe}/5_importance_spectrum.png"),
            caption="../report/importance_spectrum.rst",
            category="3 Where is it bad",
            labels={"recipe": "{recipe}", "figure": "importance spectrum"},
        ),
        svg=update("results/figures/{recipe}/5_importance_spectrum.svg"),
    log:
        "results/logs/plot_importance_spectrum/{recipe}.log",
    benchmark:
        "results/benchmarks/plot_importance_spectrum/{recipe}.tsv"
    conda:
        "../../envs/atlas.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        settings=settings("plot_importance_spectrum"),
        layers=atlas.layers,
        version=version("plot_importance_spectrum"),
        inputs=inputs("plot_importance_spectrum"),
    message:
        "figure: importance spectrum of {wildcards.recipe}"
    script:
        "../scripts/plot_importance_spectrum.py"


rule plot_pareto:
    """L0 against CE recovered and FVU: this recipe among its sister runs."""
    input:
        metrics=needs("results/metrics.parquet"),
    output:
        png=report(
            update("results/figures/{recipe}/6_pareto.png"),
            caption="../report/pareto.rst",
            category="2 Is it good",
            labels={"recipe": "{recipe}", "figure": "sparsity against loss"},
        ),
        svg=update("results/figures/{recipe}/6_pareto.svg"),
    log:
        "results/logs/plot_pareto/{recipe}.log",
    benchmark:
        "results/benchmarks/plot_pareto/{recipe}.tsv"
    conda:
        "../../envs/atlas.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        settings=settings("plot_pareto"),
        version=version("plot_pareto"),
        inputs=inputs("plot_pareto"),
    message:
        "figure: Pareto of {wildcards.recipe}"
    script:
        "../scripts/plot_pareto.py"


rule plot_layer_flow:
    """Which latents persist, appear and vanish from layer to layer."""
    input:
        flow=needs("results/metrics/{recipe}/flow.parquet"),
    output:
        png=report(
            update("results/figures/{recipe}/7_layer_flow.png"),
            caption="../report/layer_flow.rst",
            category="4 How did it get there",
            labels={"recipe": "{recipe}", "figure": "flow through the layers"},
        ),
        svg=update("results/figures/{recipe}/7_layer_flow.svg"),
    log:
        "results/logs/plot_layer_flow/{recipe}.log",
    benchmark:
        "results/benchmarks/plot_layer_flow/{recipe}.tsv"
    conda:
        "../../envs/atlas.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        settings=settings("plot_layer_flow"),
        version=version("plot_layer_flow"),
        inputs=inputs("plot_layer_flow"),
    message:
        "figure: layer flow of {wildcards.recipe}"
    script:
        "../scripts/plot_layer_flow.py"


rule plot_loss_floor_predictions:
    """Predicted floors of every layer, and what students lost where they were trained."""
    input:
        floors=needs("results/floors/{recipe}/floors.parquet"),
        students=needs(STUDENTS),
        fit=needs("results/floors/{recipe}/fit.parquet" if STUDENTS else []),
    output:
        png=report(
            update("results/figures/{recipe}/8_loss_floor_predictions.png"),
            caption="../report/loss_floor_predictions.rst",
            category="3 Where is it bad",
            labels={"recipe": "{recipe}", "figure": "distillation floors"},
        ),
        svg=update("results/figures/{recipe}/8_loss_floor_predictions.svg"),
    log:
        "results/logs/plot_loss_floor_predictions/{recipe}.log",
    benchmark:
        "results/benchmarks/plot_loss_floor_predictions/{recipe}.tsv"
    conda:
        "../../envs/atlas.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        settings=settings("plot_loss_floor_predictions"),
        version=version("plot_loss_floor_predictions"),
        inputs=inputs("plot_loss_floor_predictions"),
    message:
        "figure: distillation floors of {wildcards.recipe}"
    script:
        "../scripts/plot_loss_floor_predictions.py"
