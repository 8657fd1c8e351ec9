# Base models of our own making: trained from scratch, tuned with an adapter, merged. prepare_model takes them from here.


if pretraining(BASE_MODEL):

    rule make_tokenizer:
        """The tokenizer of a model that is yet to be trained: its text is read with it."""
        output:
            provenance=TOKENIZER,
        log:
            "results/logs/make_tokenizer.log",
        benchmark:
            "results/benchmarks/make_tokenizer.tsv"
        conda:
            "../../envs/atlas.yaml"
        threads: 1
        resources:
            mem_mb=growing(2000),
            runtime=growing(10),
        params:
            settings=settings("make_tokenizer"),
            code=code("make_tokenizer"),
            inputs=inputs("make_tokenizer"),
        message:
            "tokenizer: make"
        script:
            "../scripts/make_tokenizer.py"

    rule pretrain:
        """Train a decoder-only model from scratch; its best and its last weights are kept."""
        input:
            tokenizer=TOKENIZER,
            corpus=CORPUS,
        output:
            folder=directory(folder_of(base_of(BASE_MODEL))),
        log:
            "results/logs/pretrain.log",
        benchmark:
            "results/benchmarks/pretrain.tsv"
        conda:
            "../../envs/atlas.yaml"
        threads: 8
        resources:
            mem_mb=growing(8000),
            runtime=growing(1440),
            gpu=GPUS,
            device=DEVICE,
        params:
            settings=settings("pretrain"),
            code=code("pretrain"),
            inputs=inputs("pretrain"),
        message:
            "pretrain: {output.folder}"
        script:
            "../scripts/pretrain.py"


if BASE_MODEL["source"] in TUNED:
    ADAPTER = f"models/{kind_of(BASE_MODEL)}/{adapter_name(BASE_MODEL)}"
    DOMAIN = f"results/corpus/domain/{BASE_MODEL['lora']['corpus']['name']}.zarr"

    use rule prepare_model as prepare_base with:
        input:
            made=folder_of(base_of(BASE_MODEL)) or [],
        output:
            provenance=BASE,
        log:
            "results/logs/prepare_base.log",
        benchmark:
            "results/benchmarks/prepare_base.tsv"
        params:
            stage="prepare_base",
            settings=settings("prepare_base"),
            code=code("prepare_base"),
            inputs=inputs("prepare_base"),
        message:
            "base model: prepare the one to tune"

    use rule tokenize as tokenize_domain with:
        output:
            corpus=directory(DOMAIN),
        log:
            "results/logs/tokenize_domain.log",
        benchmark:
            "results/benchmarks/tokenize_domain.tsv"
        resources:
            mem_mb=text_mb("tokenize_domain"),
            runtime=growing(240),
        params:
            stage="tokenize_domain",
            settings=settings("tokenize_domain"),
            code=code("tokenize_domain"),
            inputs=inputs("tokenize_domain"),
        message:
            "corpus: tokenize the domain"

    rule fine_tune_lora:
        """Train a low-rank adapter of the base model on the domain; the base's own weights stay."""
        input:
            base_model=BASE,
            corpus=DOMAIN,
        output:
            folder=directory(ADAPTER),
        log:
            "results/logs/fine_tune_lora.log",
        benchmark:
            "results/benchmarks/fine_tune_lora.tsv"
        conda:
            "../../envs/atlas.yaml"
        threads: 8
        resources:
            mem_mb=growing(8000),
            runtime=growing(1440),
            gpu=GPUS,
            device=DEVICE,
        params:
            settings=settings("fine_tune_lora"),
            code=code("fine_tune_lora"),
            inputs=inputs("fine_tune_lora"),
        message:
            "fine-tune: {output.folder}"
        script:
            "../scripts/fine_tune_lora.py"


if BASE_MODEL["source"] == "merged":

    rule merge_lora:
        """Add the adapter's updates to the base model's weights; the logits must stay what base and adapter give."""
        input:
            base_model=BASE,
            adapter=ADAPTER,
            corpus=DOMAIN,
        output:
            folder=directory(folder_of(BASE_MODEL)),
        log:
            "results/logs/merge_lora.log",
        benchmark:
            "results/benchmarks/merge_lora.tsv"
        conda:
            "../../envs/atlas.yaml"
        threads: 8
        resources:
            mem_mb=growing(8000),
            runtime=growing(120),
        params:
            settings=settings("merge_lora"),
            code=code("merge_lora"),
            inputs=inputs("merge_lora"),
        message:
            "merge: {output.folder}"
        script:
            "../scripts/merge_lora.py"
