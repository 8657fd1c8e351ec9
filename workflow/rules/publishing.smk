# Publishing: a folder with a model card for every final SAE, and a release folder with all snapshots of a recipe.


rule model_card:
    """The SAE of one layer as others expect to find it: weights, config and card, checked against each other."""
    input:
        base_model=ancient(PROVENANCE),
        corpus=ancient(CORPUS),
        checkpoint=lambda wildcards: (
            "results/checkpoints/{recipe}/sae_layer{layer:02d}_{snapshot}.pt".format(
                **cell(wildcards), snapshot=atlas.last
            )
        ),
        metrics=lambda wildcards: "results/metrics/{recipe}/layer{layer:02d}.json".format(**cell(wildcards)),
    output:
        model="models/sae/{sae}/model.pt",
        config="models/sae/{sae}/config.json",
        card="models/sae/{sae}/model_card.md",
    log:
        "results/logs/model_card/{sae}.log",
    benchmark:
        "results/benchmarks/model_card/{sae}.tsv"
    conda:
        "../../envs/atlas.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(10),
    params:
        recipe=lambda wildcards: SAES[wildcards.sae]["recipe"],
        layer=lambda wildcards: SAES[wildcards.sae]["layer"],
        author=atlas.config["release"]["author"],
    message:
        "model card: {wildcards.sae}"
    script:
        "../scripts/model_card.py"


rule release:
    """All layers and snapshots of a recipe in one folder, ready for the hub, with figures and a README."""
    input:
        base_model=ancient(PROVENANCE),
        corpus=ancient(CORPUS),
        checkpoints=lambda wildcards: expand(
            "results/checkpoints/{recipe}/sae_layer{layer:02d}_{snapshot}.pt",
            recipe=RELEASES[wildcards.release],
            layer=atlas.layers,
            snapshot=atlas.snapshots,
        ),
        metrics=lambda wildcards: f"results/metrics/{RELEASES[wildcards.release]}.parquet",
        figures=lambda wildcards: expand(
            "results/figures/{recipe}/{figure}.png", recipe=RELEASES[wildcards.release], figure=FIGURES
        ),
    output:
        readme="models/releases/{release}/README.md",
    log:
        "results/logs/release/{release}.log",
    benchmark:
        "results/benchmarks/release/{release}.tsv"
    conda:
        "../../envs/atlas.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(30),
    params:
        recipe=lambda wildcards: RELEASES[wildcards.release],
        sisters=lambda wildcards: {name: recipe for name, recipe in RELEASES.items() if name != wildcards.release},
        licence=atlas.config["release"]["licence"],
        author=atlas.config["release"]["author"],
    message:
        "release: {wildcards.release}"
    script:
        "../scripts/release.py"
