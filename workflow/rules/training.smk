# Training: one job per recipe, layer and snapshot. The chain of snapshots is the resume point.


def trained(cells):
    """Checkpoints of all recipes for these (layer, snapshot) cells."""
    return [
        f"results/checkpoints/{recipe}/sae_layer{layer:02d}_{snapshot}.pt"
        for recipe in atlas.recipes
        for layer, snapshot in cells
    ]


def previous_resume_point(wildcards):
    """Where the chain stands before this window; nothing for the first."""
    previous = atlas.previous(wildcards.snapshot)
    if previous is None:
        return []
    return f"results/checkpoints/{wildcards.recipe}/sae_layer{wildcards.layer}_{previous}.resume.pt"


rule train_sae:
    """Carry one SAE from the previous snapshot to this one on one window of activations.

    The store is ancient(): one made again for a new recipe is newer than what other recipes made of it, and the
    same. That it is the same is checked by identity, in params and in the job.
    """
    input:
        store=ancient("results/stores/layer{layer}/{snapshot}.zarr"),
        previous=previous_resume_point,
    output:
        checkpoint="results/checkpoints/{recipe}/sae_layer{layer}_{snapshot}.pt",
        resume=temp("results/checkpoints/{recipe}/sae_layer{layer}_{snapshot}.resume.pt"),
        curve="results/curves/{recipe}/layer{layer}_{snapshot}.parquet",
    log:
        "results/logs/train_sae/{recipe}/layer{layer}_{snapshot}.log",
    benchmark:
        "results/benchmarks/train_sae/{recipe}/layer{layer}_{snapshot}.tsv"
    retries: 2
    conda:
        "../../envs/atlas.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(240),
    params:
        settings=settings("train_sae"),
        code=code("train_sae"),
        inputs=inputs("train_sae"),
    message:
        "train: {wildcards.recipe}, layer {wildcards.layer}, to {wildcards.snapshot} tokens"
    script:
        "../scripts/train_sae.py"
