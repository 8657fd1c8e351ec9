# Corpus: text as fixed-length contexts in a seeded random order, held-out documents split off first.


rule tokenize:
    """Turn the text into contexts of token ids with a mask."""
    input:
        base_model=needs(TOKENIZER),
    output:
        corpus=update(CORPUS),
    log:
        "results/logs/tokenize.log",
    localrule: atlas.config["corpus"]["source"] == "hub"
    conda:
        "../../envs/atlas.yaml"
    threads: 2
    resources:
        **asked("tokenize"),
    params:
        **job("tokenize"),
    message:
        "corpus: tokenize"
    script:
        "../scripts/run.py"
