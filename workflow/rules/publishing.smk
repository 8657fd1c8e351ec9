# Publishing: a folder with a model card for every final SAE, their index, and a release folder with all snapshots of a recipe.


rule model_card:
    """The SAE of one layer as others expect to find it: weights (SAELens' too), config and card, checked against each other."""
    input:
        base_model=needs(PROVENANCE),
        corpus=needs(CORPUS),
        checkpoint=needs(lambda wildcards: CHECKPOINT.format(**atlas_arguments(wildcards), snapshot=atlas.last)),
        metrics=needs(
            lambda wildcards: "results/metrics/{recipe}/layer{layer:02d}.json".format(**atlas_arguments(wildcards))
        ),
        further=needs(lambda wildcards: [table.format(**atlas_arguments(wildcards)) for table in FURTHER]),
    output:
        update("models/sae/{sae}/model.pt"),
        update("models/sae/{sae}/config.json"),
        update(["models/sae/{sae}/cfg.json", "models/sae/{sae}/sae_weights.safetensors"]),
        card=update("models/sae/{sae}/model_card.md"),
    log:
        "results/logs/model_card/{sae}.log",
    conda:
        "../../envs/atlas.yaml"
    resources:
        **asked("model_card"),
    params:
        **job("model_card", name=lambda wildcards: wildcards.sae),
    message:
        "model card: {wildcards.sae}"
    script:
        "../scripts/run.py"


rule release:
    """All layers and snapshots of a recipe in one folder, ready for the hub, with figures and a README."""
    input:
        base_model=needs(PROVENANCE),
        corpus=needs(CORPUS),
        checkpoints=needs(of_all_layers(CHECKPOINT, atlas.snapshots_of)),
        metrics=needs(of_all_layers("results/metrics/{recipe}/layer{layer:02d}.json")),
        figures=needs(
            lambda wildcards: [path for path in PICTURES if Path(path).parent.name == RELEASES[wildcards.release]]
        ),
    output:
        readme=update("models/releases/{release}/README.md"),
    log:
        "results/logs/release/{release}.log",
    conda:
        "../../envs/atlas.yaml"
    resources:
        mem_mb=growing(1000),
        runtime=growing(30),
    params:
        **job(
            "release",
            name=lambda wildcards: wildcards.release,
            layers=atlas.layers,
            snapshots=lambda wildcards: list(map(atlas.published, atlas.snapshots_of(RELEASES[wildcards.release]))),
        ),
    message:
        "release: {wildcards.release}"
    script:
        "../scripts/run.py"


rule index:
    """A table of all published SAEs; it fails on a folder whose name, config, weights, hashes or card disagree."""
    input:
        needs(CARDS),
    output:
        table=update("models/sae/README.md"),
    log:
        "results/logs/index.log",
    conda:
        "../../envs/atlas.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(60),
    params:
        **job("index"),
    message:
        "index: models/sae"
    script:
        "../scripts/run.py"
