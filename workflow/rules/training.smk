# Training: one job per recipe, layer and snapshot. The chain of snapshots is the resume point.


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
