# Base model: a folder in transformers format and a record of where it came from.


rule prepare_model:
    """Fetch, convert or make the base model once; everything else reads this plain folder."""
    input:
        made=needs(MADE, stage=made_by(BASE_MODEL)),
    output:
        provenance=update(PROVENANCE),
    log:
        "results/logs/prepare_model.log",
    localrule: BASE_MODEL["source"] == "hub"  # nodes of a cluster may have no internet
    conda:
        "../../envs/atlas.yaml"
    resources:
        **asked("prepare_model"),
    params:
        **job("prepare_model", **({"layers": atlas.layers} if atlas.of_rows else {})),
    message:
        "base model: prepare {params.job[settings][source]}"
    script:
        "../scripts/run.py"
