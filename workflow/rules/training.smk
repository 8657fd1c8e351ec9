# Training: one job per recipe, layer and snapshot. The chain of snapshots is the resume point. Published SAEs are taken over.


rule train_sae:
    """Carry one SAE from the previous snapshot to this one on one window of activations."""
    input:
        store=needs(store_of_window),
        previous=needs(previous_resume_point),
        start_from=needs(start_checkpoint),
    output:
        checkpoint=update("results/checkpoints/{recipe}/sae_layer{layer}_{snapshot}.pt"),
        record=update("results/checkpoints/{recipe}/sae_layer{layer}_{snapshot}.json"),
        resume=temp(update("results/checkpoints/{recipe}/sae_layer{layer}_{snapshot}.resume.pt")),
        curve=update("results/curves/{recipe}/layer{layer}_{snapshot}.parquet"),
    log:
        "results/logs/train_sae/{recipe}/layer{layer}_{snapshot}.log",
    wildcard_constraints:
        recipe=but_final(atlas.trained, atlas.finetuned),
    conda:
        "../../envs/atlas.yaml"
    resources:
        **asked("train_sae"),
        gpu=GPUS,
        device=DEVICE,
    params:
        **job("train_sae"),
    message:
        "train: {wildcards.recipe}, layer {wildcards.layer}, to {wildcards.snapshot} tokens"
    script:
        "../scripts/train_sae.py"


rule finetune_sae:
    """Carry one SAE over the last tokens of the run, read by the base model: it minimises what the model loses, too."""
    input:
        base_model=needs(PROVENANCE),
        corpus=needs(CORPUS),
        previous=needs(previous_resume_point),
    output:
        checkpoint=update("results/checkpoints/{recipe}/sae_layer{layer}_{snapshot}.pt"),
        record=update("results/checkpoints/{recipe}/sae_layer{layer}_{snapshot}.json"),
        curve=update("results/curves/{recipe}/layer{layer}_{snapshot}.parquet"),
    log:
        "results/logs/finetune_sae/{recipe}/layer{layer}_{snapshot}.log",
    wildcard_constraints:
        recipe=one_of(atlas.finetuned),
        snapshot=atlas.last,
    conda:
        "../../envs/atlas.yaml"
    resources:
        **asked("finetune_sae"),
        gpu=GPUS,
        device=MODEL_DEVICE,
    params:
        **job("finetune_sae"),
    message:
        "finetune: {wildcards.recipe}, layer {wildcards.layer}, to {wildcards.snapshot} tokens"
    script:
        "../scripts/train_sae.py"


rule import_start:
    """Write an SAE of the user's own as the checkpoint at which a recipe's training begins."""
    input:
        local_start,
    output:
        checkpoint=update("results/starts/{recipe}/sae_layer{layer}.pt"),
    log:
        "results/logs/import_start/{recipe}/layer{layer}.log",
    wildcard_constraints:
        recipe=one_of(atlas.trained),
    conda:
        "../../envs/atlas.yaml"
    resources:
        **asked("import_start"),
    params:
        **job("import_start"),
    message:
        "start: {wildcards.recipe}, layer {wildcards.layer}"
    script:
        "../scripts/run.py"


rule import_sae:
    """Fetch an SAE that others published, check it against the config, and write it in our format."""
    input:
        local_sae,
        base_model=needs(PROVENANCE),
    output:
        checkpoint=update("results/checkpoints/{recipe}/sae_layer{layer}_{snapshot}.pt"),
    log:
        "results/logs/import_sae/{recipe}/layer{layer}_{snapshot}.log",
    wildcard_constraints:
        recipe=one_of(atlas.pretrained),
    localrule: any(atlas.config["recipes"][recipe]["pretrained"]["source"] == "hub" for recipe in atlas.pretrained)
    conda:
        "../../envs/atlas.yaml"
    resources:
        **asked("import_sae"),
    params:
        **job("import_sae"),
    message:
        "import: {wildcards.recipe}, layer {wildcards.layer}, {wildcards.snapshot} tokens"
    script:
        "../scripts/run.py"
