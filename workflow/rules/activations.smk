# Activations: one forward pass per window and group of layers, then one shuffled store per window and layer.


rule save_activations:
    """Read the site of every layer of a group in one forward pass over the contexts of a window.

    A pass waits for the training that frees the disk of an earlier one (activations.max_live_stores).
    """
    input:
        freed,
        base_model=needs(PROVENANCE),
        corpus=needs(CORPUS),
    output:
        activations=temp(directory("results/activations/{snapshot}_{group}.zarr")),
    log:
        "results/logs/save_activations/{snapshot}_{group}.log",
    conda:
        "../../envs/atlas.yaml"
    threads: threads_of("save_activations")
    resources:
        **asked("save_activations"),
        gpu=GPUS,
        device=MODEL_DEVICE,
    params:
        **job("save_activations", layers=lambda wildcards: atlas.groups[wildcards.group], **SAVED),
    message:
        "activations: window to {wildcards.snapshot}, layers {wildcards.group}"
    script:
        "../scripts/run.py"


rule shard_activations:
    """Shuffle one layer's activations within shards, measure their normaliser, compress and checksum them."""
    input:
        activations=needs(
            lambda wildcards: f"results/activations/{wildcards.snapshot}_{atlas.group_of(int(wildcards.layer))}.zarr"
        ),
    output:
        store=temp(directory("results/stores/layer{layer}/{snapshot}.zarr")),
    log:
        "results/logs/shard_activations/layer{layer}_{snapshot}.log",
    conda:
        "../../envs/atlas.yaml"
    resources:
        **asked("shard_activations"),
    params:
        **job("shard_activations"),
    message:
        "store: layer {wildcards.layer}, window to {wildcards.snapshot}"
    script:
        "../scripts/run.py"
