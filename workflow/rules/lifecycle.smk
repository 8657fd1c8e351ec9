# Base models of our own making: trained from scratch, tuned with an adapter, merged. prepare_model takes them from here.


if pretraining(BASE_MODEL):

    rule make_tokenizer:
        """The tokenizer of a model that is yet to be trained: its text is read with it."""
        output:
            provenance=update(TOKENIZER),
        log:
            "results/logs/make_tokenizer.log",
        conda:
            "../../envs/atlas.yaml"
        resources:
            mem_mb=growing(2000),
            runtime=growing(10),
        params:
            **job("make_tokenizer"),
        message:
            "tokenizer: make"
        script:
            "../scripts/run.py"

    rule pretrain:
        """Train a decoder-only model from scratch; its best and its last weights are kept."""
        input:
            tokenizer=needs(TOKENIZER),
            corpus=needs(CORPUS),
        output:
            meta=update(made_model(base_of(BASE_MODEL))),
        log:
            "results/logs/pretrain.log",
        conda:
            "../../envs/atlas.yaml"
        threads: threads_of("pretrain")
        resources:
            **asked("pretrain"),
            gpu=GPUS,
            device=DEVICE,
        params:
            **job("pretrain"),
        message:
            "pretrain: {output.meta}"
        script:
            "../scripts/run.py"


if BASE_MODEL["source"] in TUNED:
    ADAPTER = f"models/{kind_of(BASE_MODEL)}/{adapter_name(BASE_MODEL)}/{META}"
    DOMAIN = f"results/corpus/domain/{BASE_MODEL['lora']['corpus']['name']}.zarr/zarr.json"

    use rule prepare_model as prepare_base with:
        input:
            made=needs(made_model(base_of(BASE_MODEL)), stage=made_by(base_of(BASE_MODEL))),
        output:
            provenance=update(BASE),
        log:
            "results/logs/prepare_base.log",
        localrule: base_of(BASE_MODEL)["source"] == "hub"
        params:
            **job("prepare_base"),
        message:
            "base model: prepare the one to tune"

    use rule tokenize as tokenize_domain with:
        output:
            corpus=update(DOMAIN),
        log:
            "results/logs/tokenize_domain.log",
        localrule: BASE_MODEL["lora"]["corpus"]["source"] == "hub"
        resources:
            **asked("tokenize_domain"),
        params:
            **job("tokenize_domain"),
        message:
            "corpus: tokenize the domain"

    rule fine_tune_lora:
        """Train a low-rank adapter of the base model on the domain; the base's own weights stay."""
        input:
            base_model=needs(BASE),
            corpus=needs(DOMAIN),
        output:
            meta=update(ADAPTER),
        log:
            "results/logs/fine_tune_lora.log",
        conda:
            "../../envs/atlas.yaml"
        threads: threads_of("fine_tune_lora")
        resources:
            **asked("fine_tune_lora"),
            gpu=GPUS,
            device=DEVICE,
        params:
            **job("fine_tune_lora"),
        message:
            "fine-tune: {output.meta}"
        script:
            "../scripts/run.py"


if BASE_MODEL["source"] == "merged":

    rule merge_lora:
        """Add the adapter's updates to the base model's weights; the logits must stay what base and adapter give."""
        input:
            base_model=needs(BASE),
            adapter=needs(ADAPTER, stage="fine_tune_lora"),
            corpus=needs(DOMAIN),
        output:
            meta=update(made_model(BASE_MODEL)),
        log:
            "results/logs/merge_lora.log",
        conda:
            "../../envs/atlas.yaml"
        resources:
            **asked("merge_lora"),
        params:
            **job("merge_lora"),
        message:
            "merge: {output.meta}"
        script:
            "../scripts/run.py"
