"""Run by sae-bench's own environment (test_saebench_parts.py): its functions on arrays and probes that are given.

Every line of the input names a file of torch.save: `part`, the name of a function below, and its arguments. It is overwritten
by the answer. Where sae-bench draws items, the first are taken.
"""

import json
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import torch
from torch import Tensor

from benchmarks.stubs import put_in_place

put_in_place()  # of packages that the peers import and none of this needs

SIZES = {"sae_batch_size": 125, "probe_batch_size": 500}


def k_sparse(train: dict[str, Tensor], test: dict[str, Tensor], counts: list[int]) -> dict:
    """Number of units -> class -> accuracy; train, test: class -> [items, units], equally many of each."""
    from sae_bench.evals.sparse_probing.probe_training import train_probe_on_activations

    return {count: train_probe_on_activations(train, test, select_top_k=count)[1] for count in counts}


def perturbation(**data) -> dict:
    """Metrics of targeted probe perturbation by their names."""
    from sae_bench.evals.scr_and_tpp.main import create_tpp_plotting_dict

    return create_tpp_plotting_dict(*_accuracies(perform_scr=False, **data))[0]


def correlation_removal(**data) -> dict:
    """Metrics of spurious correlation removal by their names."""
    from sae_bench.evals.scr_and_tpp.main import get_scr_plotting_dict

    return get_scr_plotting_dict(*_accuracies(perform_scr=True, **data))


def _accuracies(
    sae: str,
    train: dict[str, Tensor],
    test: dict[str, Tensor],
    probes: dict[str, tuple],
    counts: list,
    perform_scr: bool,
):
    """(of ablated activations, of those as they are). train, test: class -> [items, context, d_in], 0 where a text has ended;
    probes: class -> (weights [d_in], bias).
    """
    from sae_bench.evals.scr_and_tpp import main
    from sae_bench.sae_bench_utils.activation_collection import create_meaned_model_activations

    theirs, classes = _load(sae), list(probes)
    made = {name: main.probe_training.Probe(len(weights), weights.dtype) for name, (weights, _) in probes.items()}
    for name, (weights, bias) in probes.items():
        made[name].net.load_state_dict({"weight": weights[None], "bias": torch.tensor([bias])})
    with torch.no_grad():
        effects = main.get_all_node_effects_for_one_sae(
            theirs, made, classes, perform_scr, train, SIZES["sae_batch_size"]
        )
        means = create_meaned_model_activations(test)
        clean = main.get_probe_test_accuracy(made, classes, means, SIZES["probe_batch_size"], perform_scr)
        ablated = main.perform_feature_ablations(
            made,
            theirs,
            SIZES["sae_batch_size"],
            test,
            effects,
            counts,
            classes,
            SIZES["probe_batch_size"],
            perform_scr,
        )
    return ablated, clean


def absorption(sae: str, x: Tensor, words: list[str], probe: Tensor, main: list[int]) -> dict:
    """Of every word `fraction` and `full` absorption; x [words, d_in]: their activations, which no model is run for."""
    from sae_bench.evals.absorption import feature_absorption as settings
    from sae_bench.evals.absorption.feature_absorption_calculator import FeatureAbsorptionCalculator

    layer, theirs, rest = 0, _load(sae), list(x)

    def run_with_cache(prompts, names_filter):
        taken = [rest.pop(0) for _ in prompts]
        return None, {names_filter[0]: torch.stack(taken)[:, None]}

    calculator = FeatureAbsorptionCalculator(
        model=SimpleNamespace(run_with_cache=run_with_cache, to_tokens=lambda _: [[0]]),
        icl_word_list=words,
        max_icl_examples=1,
        word_token_pos=0,
        full_absorption_probe_cos_sim_threshold=settings.FULL_ABSORPTION_PROBE_COS_THRESHOLD,
        absorption_fraction_probe_cos_sim_threshold=settings.ABSORPTION_FRACTION_PROBE_COS_THRESHOLD,
        probe_projection_proportion_threshold=settings.ABSORPTION_PROBE_PROJECTION_PROPORTION_THRESHOLD,
        absorption_fraction_max_absorbing_latents=settings.ABSORPTION_FRACTION_MAX_ABSORBING_LATENTS,
    )
    results = calculator.calculate_absorption(theirs, words, probe, main, layer).word_results
    return {
        "fraction": [float(each.absorption_fraction) for each in results],
        "full": [bool(each.is_full_absorption) for each in results],
    }


def splitting(
    sae: str, train: Tensor, labels: list[int], test: Tensor, truth: list[int], weights: Tensor, most: int, jump: float
) -> dict:
    """Letter -> `f1` of every k-sparse probe, `latents` that the letter is split over. train, test: [words, d_in]; labels,
    truth: numbers of the words' letters; weights [letters, d_sae]: of the L1-penalised probes, which sae-bench begins at
    random.
    """
    from sae_bench.evals.absorption import k_sparse_probing as theirs

    def probe(weights: Tensor):
        linear = theirs.LinearProbe(weights.shape[1], num_outputs=len(weights))
        linear.fc.weight.data, linear.fc.bias.data = weights, torch.zeros(len(weights))
        return linear

    theirs.train_sparse_multi_probe = lambda *_, **__: probe(weights)
    loaded, dense = _load(sae), probe(torch.zeros(len(weights), train.shape[1]))
    named, asked = ([(theirs.LETTERS[each], each) for each in letters] for letters in (labels, truth))
    probes = theirs.train_k_sparse_probes(loaded, named, train, ks=list(range(1, most + 1)))
    raw = theirs.eval_probe_and_sae_k_sparse_raw_scores(loaded, dense, probes, asked, test)
    about = theirs.sae_k_sparse_metadata(loaded, dense, probes, "ours", 0)
    table = theirs.build_metrics_df(raw, about, max_k_value=most)
    theirs.add_feature_splits_to_metrics_df(table, max_k_value=most, f1_jump_threshold=jump)
    return {row["letter"]: _of_letter(row, most) for _, row in table.iterrows()}


def _of_letter(row: pd.Series, most: int) -> dict:
    return {
        "f1": [float(row[f"f1_sparse_sae_{count}"]) for count in range(1, most + 1)],
        "latents": [int(each) for each in row["split_feats"]],
    }


def read(files: list[str]) -> dict:
    """Evaluation -> metrics by category, of files that sae-bench's own classes take for results of theirs."""
    from pydantic import TypeAdapter
    from sae_bench.evals.absorption import eval_output as absorption
    from sae_bench.evals.scr_and_tpp import eval_output as scr_and_tpp
    from sae_bench.evals.sparse_probing import eval_output as probing

    kinds = {
        absorption.EVAL_TYPE_ID_ABSORPTION: absorption.AbsorptionEvalOutput,
        probing.EVAL_TYPE_ID_SPARSE_PROBING: probing.SparseProbingEvalOutput,
        scr_and_tpp.EVAL_TYPE_ID_SCR: scr_and_tpp.ScrEvalOutput,
        scr_and_tpp.EVAL_TYPE_ID_TPP: scr_and_tpp.TppEvalOutput,
    }
    metrics = {}
    for file in files:
        content = Path(file).read_text(encoding="utf-8")
        name = json.loads(content)["eval_type_id"]
        metrics[name] = asdict(TypeAdapter(kinds[name]).validate_json(content).eval_result_metrics)
    return metrics


def _load(folder: str):
    from sae_lens import SAE

    return SAE.load_from_disk(folder)


if __name__ == "__main__":
    torch.randperm = torch.arange
    for line in sys.stdin:
        request = torch.load(line.strip(), weights_only=True)
        with redirect_stdout(sys.stderr):
            answer = globals()[request.pop("part")](**request)
        torch.save(answer, line.strip())
        print("answered", flush=True)
