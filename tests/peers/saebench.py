"""Run by sae-bench's own environment (test_saebench*.py): what its evaluations say of an SAE that we exported for SAELens.

A request is a file of torch.save: `evaluation`, the name of a function below, and its arguments. What sae-bench would
download is given in its place; all that is computed is its own. It would keep activations under the model's name, which here
is the path of a folder: they are not saved.
"""

import random
import sys
from functools import partial
from pathlib import Path

import torch
from hooked import read_folders

from benchmarks.stubs import put_in_place

put_in_place()  # of packages that the peers import and none of this needs
read_folders()

NAME = "ours"  # of the SAE in what sae-bench writes
DATA = "topics"  # of the data set


def core(sae: str, tokens: str, context: int, contexts: int, contexts_per_batch: int, output: str) -> None:
    """tokens: folder of a Parquet file with a column `tokens`, a row per context; its `contexts` are read twice."""
    from sae_bench.evals.core.main import multiple_evals
    from sae_lens.training import activations_store

    activations_store.validate_pretokenized_dataset_tokenizer = lambda **_: None  # which asks the hub
    batches = contexts // contexts_per_batch
    multiple_evals(
        [(NAME, _load(sae))],
        n_eval_reconstruction_batches=batches,
        n_eval_sparsity_variance_batches=batches,
        eval_batch_size_prompts=contexts_per_batch,
        compute_featurewise_density_statistics=True,
        compute_featurewise_weight_based_metrics=True,
        exclude_special_tokens_from_reconstruction=True,
        dataset=tokens,
        context_size=context,
        output_folder=output,
        device="cpu",
    )


def sparse_probing(sae: str, train: dict, test: dict, output: str, **sizes) -> None:
    """train, test: topic -> texts, equally many of each."""
    from sae_bench.evals.sparse_probing.eval_config import SparseProbingEvalConfig
    from sae_bench.evals.sparse_probing.main import dataset_info, dataset_utils, run_eval

    theirs = _load(sae)
    dataset_info.chosen_classes_per_dataset[DATA] = list(train)
    dataset_utils.get_multi_label_train_test_data = lambda *_: (dict(train), dict(test))
    config = _config(SparseProbingEvalConfig, theirs, **sizes)
    run_eval(config, [(NAME, theirs)], "cpu", output, save_activations=False)


def perturbation(sae: str, train: dict, test: dict, output: str, **sizes) -> None:
    """Targeted probe perturbation; train and test as in sparse_probing."""
    from sae_bench.evals.scr_and_tpp import main

    main.dataset_info.chosen_classes_per_dataset[DATA] = list(train)
    _scr_and_tpp(sae, output, (dict(train), dict(test)), perform_scr=False, **sizes)


def correlation_removal(sae: str, train: dict, test: dict, size: tuple, output: str, **sizes) -> None:
    """train, test: columns `text`, `topic` (0: the first, 1: the second) and `label` (0: has it, 1: has not); size: texts of
    each of the two.
    """
    import pandas as pd
    from sae_bench.evals.scr_and_tpp import main

    first, second = {"yes": 0, "no": 1}, {"with": 0, "without": 1}
    columns = {"text_column_name": "text", "column1_name": "topic", "column2_name": "label"}
    main.dataset_info.dataset_metadata[DATA] = columns | {"column1_mapping": first, "column2_mapping": second}
    data = tuple(
        main.dataset_creation.get_spurious_corr_data(
            pd.DataFrame(columns), ("yes", "no"), ("with", "without"), DATA, texts // 4, random_seed=0
        )
        for columns, texts in zip((train, test), size, strict=True)
    )
    lookup = {DATA: [("yes", "no")]}
    _scr_and_tpp(sae, output, data, perform_scr=True, column1_vals_lookup=lookup, **sizes)


def _scr_and_tpp(sae: str, output: str, data: tuple, **settings) -> None:
    from sae_bench.evals.scr_and_tpp import main

    theirs = _load(sae)
    main.COLUMN2_VALS_LOOKUP[DATA] = ("with", "without")
    main.dataset_creation.get_train_test_data = lambda *_: data
    config = _config(main.ScrAndTppEvalConfig, theirs, **settings)
    main.run_eval(config, [(NAME, theirs)], "cpu", output, save_activations=False)


def absorption(sae: str, words: list[str], output: str, **settings) -> None:
    """words: of a token each, of every letter some; all prompts are made of them. sae-bench keeps files where it is run."""
    from sae_bench.evals.absorption import common, feature_absorption, main

    for module in (common, feature_absorption):
        module.get_alpha_tokens = lambda *_: words
    beside = {"probes_dir": "artifacts/probes", "sparse_probing_experiment_dir": "artifacts/k_sparse"}
    main.run_k_sparse_probing_experiment = partial(
        main.run_k_sparse_probing_experiment, probes_dir=beside["probes_dir"], experiment_dir="artifacts/k_sparse"
    )
    main.run_feature_absortion_experiment = partial(
        main.run_feature_absortion_experiment, experiment_dir="artifacts/absorption", **beside
    )
    theirs = _load(sae)
    random.seed(0)
    torch.manual_seed(0)
    config = main.AbsorptionEvalConfig(model_name=theirs.cfg.metadata.model_name, **settings)
    Path(output).mkdir(parents=True)
    main.run_eval(config, [(NAME, theirs)], "cpu", output)


def _load(folder: str):
    from sae_lens import SAE

    return SAE.load_from_disk(folder)


def _config(kind: type, sae, **settings):
    return kind(model_name=sae.cfg.metadata.model_name, dataset_names=[DATA], llm_dtype="float32", **settings)


if __name__ == "__main__":
    request = torch.load(sys.argv[1], weights_only=True)
    globals()[request.pop("evaluation")](**request)
