# Figures: PNG to look at, SVG to print, one rule each.


rule plot_training_curves:
    """Loss, L0, alive latents and lambda over the tokens, all layers of a recipe."""
    input:
        curves=lambda wildcards: expand(
            "results/curves/{recipe}/layer{layer:02d}_{snapshot}.parquet",
            recipe=wildcards.recipe,
            layer=atlas.layers,
            snapshot=atlas.snapshots,
        ),
    output:
        png=report(
            "results/figures/{recipe}/1_training_curves.png",
            caption="../report/training_curves.rst",
            category="4 How did it get there",
            labels={"recipe": "{recipe}", "figure": "training curves"},
        ),
        svg="results/figures/{recipe}/1_training_curves.svg",
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
        code=code("plot_training_curves"),
        inputs=inputs("plot_training_curves"),
    message:
        "figure: training curves of {wildcards.recipe}"
    script:
        "../scripts/plot_training_curves.py"


rule plot_metrics_heatmap:
    """Every metric of every layer at the end, and the headline metrics over the snapshots."""
    input:
        metrics="results/metrics/{recipe}.parquet",
    output:
        png=report(
            "results/figures/{recipe}/2_metrics_heatmap.png",
            caption="../report/metrics_heatmap.rst",
            category="2 Is it good",
            labels={"recipe": "{recipe}", "figure": "metrics heatmap"},
        ),
        svg="results/figures/{recipe}/2_metrics_heatmap.svg",
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
        code=code("plot_metrics_heatmap"),
        inputs=inputs("plot_metrics_heatmap"),
    message:
        "figure: metrics heatmap of {wildcards.recipe}"
    script:
        "../scripts/plot_metrics_heatmap.py"
