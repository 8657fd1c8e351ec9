# Tasks: SAEBench's questions, asked of every layer and snapshot. Nothing of it is asked for without evaluation.tasks.


rule save_task_text:
    """Read the site of every layer of a group in one forward pass over the documents that tasks read."""
    input:
        lambda wildcards: ancient(needs(group_trained)(wildcards)),
        base_model=needs(PROVENANCE),
        corpus=needs(CORPUS),
    output:
        activations=temp(directory("results/tasks/text_{group}.zarr")),
    log:
        "results/logs/save_task_text/{group}.log",
    conda:
        "../../envs/atlas.yaml"
    threads: threads_of("save_task_text")
    resources:
        **asked("save_task_text"),
        gpu=GPUS,
        device=MODEL_DEVICE,
    params:
        **job("save_task_text", layers=lambda wildcards: atlas.groups[wildcards.group], **SAVED),
    message:
        "text of tasks: layers {wildcards.group}"
    script:
        "../scripts/run.py"


rule save_words:
    """Read the site of every layer of a group at words of the vocabulary whose first letter is asked for."""
    input:
        base_model=needs(PROVENANCE),
    output:
        words=temp(directory("results/tasks/words_{group}.zarr")),
    log:
        "results/logs/save_words/{group}.log",
    conda:
        "../../envs/atlas.yaml"
    threads: threads_of("save_words")
    resources:
        **asked("save_words"),
        gpu=GPUS,
        device=MODEL_DEVICE,
    params:
        **job("save_words", layers=lambda wildcards: atlas.groups[wildcards.group]),
    message:
        "words: layers {wildcards.group}"
    script:
        "../scripts/run.py"


rule measure_tasks:
    """What can be read from the latents of every snapshot of one layer, and changed through them."""
    input:
        base_model=needs(PROVENANCE),
        corpus=needs(CORPUS),
        text=needs(of_group("results/tasks/text_{group}.zarr", on_documents(atlas))),
        words=needs(of_group("results/tasks/words_{group}.zarr", on_words(atlas))),
        checkpoints=needs(checkpoints_of_layer),
    output:
        table=update("results/metrics/{recipe}/layer{layer}_measure_tasks.parquet"),
        json=update("results/metrics/{recipe}/layer{layer}_measure_tasks.json"),
    log:
        "results/logs/measure_tasks/{recipe}/layer{layer}.log",
    conda:
        "../../envs/atlas.yaml"
    resources:
        **asked("measure_tasks"),
        gpu=GPUS,
        device=DEVICE,
    params:
        **job("measure_tasks", snapshots=published_snapshots),
    message:
        "tasks: {wildcards.recipe}, layer {wildcards.layer}"
    script:
        "../scripts/run.py"


# For other programs, when asked for: `snakemake sae_bench`.


rule tasks_for_sae_bench:
    """The answers of every snapshot of a layer in SAEBench's JSON schema, a file per snapshot and question."""
    input:
        answers=needs("results/metrics/{recipe}/layer{layer}_measure_tasks.json", by_time=True),
        metrics=needs("results/metrics/{recipe}/layer{layer}.json", by_time=True),
    output:
        folder=directory("results/sae_bench/{recipe}/layer{layer}"),
    log:
        "results/logs/tasks_for_sae_bench/{recipe}/layer{layer}.log",
    conda:
        "../../envs/atlas.yaml"
    resources:
        mem_mb=growing(1000),
        runtime=growing(10),
    params:
        **export_for_others(
            "tasks.sae_bench:write_sae_bench",
            model=atlas.config["base_model"]["name"],
            dataset=atlas.config["corpus"]["name"],
            release=lambda wildcards: atlas.release_name(wildcards.recipe),
        ),
    message:
        "SAEBench: {wildcards.recipe}, layer {wildcards.layer}"
    script:
        "../scripts/run.py"


rule sae_bench:
    """SAEBench's JSON of all layers, where evaluation.tasks asks its questions."""
    input:
        expand(
            "results/sae_bench/{recipe}/layer{layer:02d}",
            recipe=atlas.recipes,
            layer=atlas.layers if tasks_of(atlas) else [],
        ),
    localrule: True
