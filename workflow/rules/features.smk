# Features: what the latents of the final SAEs mean. Nothing of it is asked for without the config's section `features`.


rule save_text:
    """Read the site of every layer of a group in one forward pass over the text that contexts are taken from.

    It waits for the training of these layers, whose stores need the disk before.
    """
    input:
        lambda wildcards: ancient(needs(text_trained)(wildcards)),
        base_model=needs(PROVENANCE),
        corpus=needs(CORPUS),
    output:
        activations=temp(directory("results/features/activations_{part}.zarr")),
    log:
        "results/logs/save_text/{part}.log",
    conda:
        "../../envs/atlas.yaml"
    threads: threads_of("save_text")
    resources:
        **asked("save_text"),
        gpu=GPUS,
        device=MODEL_DEVICE,
    params:
        **job("save_text", layers=lambda wildcards: atlas.text_groups[wildcards.part], **SAVED),
    message:
        "text: layers {wildcards.part}"
    script:
        "../scripts/run.py"


rule top_contexts:
    """What every latent of a layer fires on, how often and how strongly, and which tokens it promotes."""
    input:
        base_model=needs(PROVENANCE),
        corpus=needs(CORPUS),
        activations=needs(lambda wildcards: text_activations(int(wildcards.layer))),
        checkpoint=needs(f"results/checkpoints/{{recipe}}/sae_layer{{layer}}_{atlas.last}.pt"),
    output:
        contexts_table=update("results/features/{recipe}/layer{layer}_contexts.parquet"),
        features_table=update("results/features/{recipe}/layer{layer}_features.parquet"),
        documents_table=update("results/features/{recipe}/layer{layer}_documents.parquet"),
        raw_table=update("results/features/{recipe}/layer{layer}_raw.parquet"),
    log:
        "results/logs/top_contexts/{recipe}/layer{layer}.log",
    conda:
        "../../envs/atlas.yaml"
    resources:
        **asked("top_contexts"),
        gpu=GPUS,
        device=MODEL_DEVICE,
    params:
        **job("top_contexts", split=atlas.config.get("features", {}).get("split")),
    message:
        "contexts: {wildcards.recipe}, layer {wildcards.layer}"
    script:
        "../scripts/run.py"


rule evolution:
    """How the latents of a layer formed: their best matches in its earlier snapshots and in the neighbouring layers."""
    input:
        checkpoint=needs(f"results/checkpoints/{{recipe}}/sae_layer{{layer}}_{atlas.last}.pt"),
        earlier=needs(earlier_snapshots),
        neighbours=needs(beside_it),
    output:
        table=update("results/features/{recipe}/layer{layer}_evolution.parquet"),
    log:
        "results/logs/evolution/{recipe}/layer{layer}.log",
    conda:
        "../../envs/atlas.yaml"
    resources:
        **asked("evolution"),
    params:
        **job("evolution"),
    message:
        "evolution: {wildcards.recipe}, layer {wildcards.layer}"
    script:
        "../scripts/run.py"


rule contexts_of_matches:
    """What those best matches fire on, in the same text."""
    input:
        corpus=needs(CORPUS),
        activations=needs(text_of_neighbours),
        evolution=needs("results/features/{recipe}/layer{layer}_evolution.parquet"),
        earlier=needs(earlier_snapshots),
        neighbours=needs(beside_it),
    output:
        table=update("results/features/{recipe}/layer{layer}_matches.parquet"),
    log:
        "results/logs/contexts_of_matches/{recipe}/layer{layer}.log",
    conda:
        "../../envs/atlas.yaml"
    resources:
        **asked("contexts_of_matches"),
        gpu=GPUS,
        device=DEVICE,
    params:
        **job(
            "contexts_of_matches",
            split=atlas.config.get("features", {}).get("split"),
            snapshots=lambda wildcards: atlas.snapshots_of(wildcards.recipe)[:-1],
            layers=lambda wildcards: atlas.neighbour_layers(int(wildcards.layer)),
        ),
    message:
        "contexts of matches: {wildcards.recipe}, layer {wildcards.layer}"
    script:
        "../scripts/run.py"


# For other programs, when asked for: `snakemake contexts_json`, `snakemake neuronpedia`.


rule contexts_as_json:
    """The highest contexts of every latent of a layer as plain JSON."""
    input:
        base_model=needs(PROVENANCE, by_time=True),
        contexts=needs("results/features/{recipe}/layer{layer}_contexts.parquet", by_time=True),
    output:
        file=update("results/features/{recipe}/layer{layer}.json"),
    log:
        "results/logs/contexts_as_json/{recipe}/layer{layer}.log",
    conda:
        "../../envs/atlas.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        **export_for_others(
            "features.as_json:contexts_as_json", context=atlas.config["corpus"]["context"], row_texts=ROW_TEXTS
        ),
    message:
        "JSON: {wildcards.recipe}, layer {wildcards.layer}"
    script:
        "../scripts/run.py"


rule contexts_for_neuronpedia:
    """Contexts, statistics and logits of every latent of a layer as Neuronpedia reads them."""
    input:
        base_model=needs(PROVENANCE, by_time=True),
        contexts=needs("results/features/{recipe}/layer{layer}_contexts.parquet", by_time=True),
        features=needs("results/features/{recipe}/layer{layer}_features.parquet", by_time=True),
    output:
        file=update("results/features/{recipe}/neuronpedia/layer{layer}.json"),
    log:
        "results/logs/contexts_for_neuronpedia/{recipe}/layer{layer}.log",
    conda:
        "../../envs/atlas.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        **export_for_others(
            "features.as_json:contexts_for_neuronpedia",
            model=atlas.config["base_model"]["name"],
            layer=lambda wildcards: int(wildcards.layer),
            recipe=lambda wildcards: wildcards.recipe,
            dataset=atlas.config["corpus"].get("id", atlas.config["corpus"]["name"]),
            context=atlas.config["corpus"]["context"],
        ),
    message:
        "Neuronpedia: {wildcards.recipe}, layer {wildcards.layer}"
    script:
        "../scripts/run.py"


rule contexts_json:
    """JSON of all layers that are looked at."""
    input:
        expand("results/features/{recipe}/layer{layer:02d}.json", recipe=atlas.recipes, layer=atlas.feature_layers),
    localrule: True


rule neuronpedia:
    """Neuronpedia's JSON of all layers that are looked at."""
    input:
        expand(
            "results/features/{recipe}/neuronpedia/layer{layer:02d}.json",
            recipe=atlas.recipes,
            layer=atlas.feature_layers,
        ),
    localrule: True
