# Corpus: text as fixed-length contexts in a seeded random order, held-out documents split off first.
import math

from sae_atlas.plan.text_memory import text_memory


def text_mb(rule):
    """Memory of a job that turns a text into contexts; `make plan` prints the same."""
    return growing(math.ceil(text_memory(atlas, rule) / 1e6))


rule tokenize:
    """Turn the text into contexts of token ids with a mask."""
    input:
        base_model=TOKENIZER,
    output:
        corpus=directory(CORPUS),
    log:
        "results/logs/tokenize.log",
    benchmark:
        "results/benchmarks/tokenize.tsv"
    conda:
        "../../envs/atlas.yaml"
    threads: 2
    resources:
        mem_mb=text_mb("tokenize"),
        runtime=growing(240),
    params:
        stage="tokenize",
        settings=settings("tokenize"),
        code=code("tokenize"),
        inputs=inputs("tokenize"),
    message:
        "corpus: tokenize"
    script:
        "../scripts/tokenize.py"
