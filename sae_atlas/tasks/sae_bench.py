"""What was measured in the JSON schema of sae_bench 0.6.0 (evals/*/eval_output.py), so that results can be handed in.

What SAEBench measures and we do not, a probe on all latents and k-sparse probes on raw dimensions, is null there as it allows.
"""

import statistics
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from sae_atlas.features.probes import LATENTS
from sae_atlas.io.errors import REMAKE, AtlasError
from sae_atlas.io.files import atomic, read_json, write_json
from sae_atlas.tasks.ablation import COUNTS
from sae_atlas.tasks.first_letter import JUMP, MOST
from sae_atlas.tasks.letters import KNOWN


def write_sae_bench(
    answers: str | Path, metrics: str | Path, folder: str | Path, model: str, dataset: str, release: str
) -> None:
    """Write a file per snapshot and question of a layer into `folder`, called as SAEBench calls its own.

    answers: JSON of tasks.measure, metrics: that of metrics.evaluate, of the same layer; model, dataset: their names; release:
    of the recipe. Raises AtlasError if `answers` is not readable.
    """
    of_tasks, measured = read_json(answers), read_json(metrics)
    layer = measured["metrics"][0]["layer"]
    identity = (of_tasks.get("record") or {}).get("identity", "")
    if "answers" not in of_tasks:
        raise AtlasError(f"{answers}: holds no answers. {REMAKE}")
    with atomic(folder) as partial:
        Path(partial).mkdir(parents=True, exist_ok=True)
        for snapshot, checkpoint in measured["checkpoints"].items():
            sae = f"layer{layer:02d}_{snapshot}"
            about = {
                "eval_id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{identity} {snapshot}")),
                "datetime_epoch_millis": int(time.time() * 1000),
                "sae_bench_commit_hash": "none: SAE Atlas measured it as sae_bench 0.6.0 defines it",
                "sae_lens_id": sae,
                "sae_lens_release_id": release,
                "sae_lens_version": None,
                "sae_cfg_dict": checkpoint["config"],
            }
            for name, output in outputs(of_tasks["answers"][snapshot], model, dataset).items():
                write_json(Path(partial) / name / f"{release}_{sae}_eval_results.json", output | about)


def outputs(answers: dict, model: str, dataset: str) -> dict[str, dict]:
    """eval_type_id -> config, metrics and details of an SAE, as far as they were measured.

    answers: of one SAE in the JSON of tasks.measure. First letters need two that the model knows, for SAEBench wants their
    standard deviation.
    """
    values, sections = answers["values"], {}
    named = {"model_name": model, "dataset_names": [dataset]}
    if "probing_1" in values:
        counts = [count for count in LATENTS if f"probing_{count}" in values]  # an SAE may have fewer latents
        of_latents = {f"sae_top_{count}_test_accuracy": values[f"probing_{count}"] for count in counts}
        of_model = {"llm_test_accuracy": values["probing_dense"]}
        details = [{"dataset_name": dataset, **of_model, **of_latents}]
        metrics = {"llm": of_model, "sae": of_latents}
        sections["sparse_probing"] = _output(named | {"k_values": counts}, metrics, details)
    counts = [count for count in COUNTS if f"tpp_{count}" in values]
    if counts:
        kinds = {"total_metric": "", "intended_diff_only": "_intended", "unintended_diff_only": "_unintended"}
        metrics = {
            f"tpp_threshold_{n}_{name}": values[f"tpp_{n}{tail}"] for n in counts for name, tail in kinds.items()
        }
        config = named | {"perform_scr": False, "n_values": counts}
        sections["tpp"] = _output(config, {"tpp_metrics": metrics}, [{"dataset_name": dataset, **metrics}])
    counts = [count for count in COUNTS if f"scr_{count}" in values]
    if counts:
        kinds = {"metric": "", "dir1": "_dir1", "dir2": "_dir2"}
        metrics = {
            f"scr_{name}_threshold_{n}": values[f"scr_{n}{tail}"] for n in counts for name, tail in kinds.items()
        }
        config = named | {"perform_scr": True, "n_values": counts}
        sections["scr"] = _output(config, {"scr_metrics": metrics}, [{"dataset_name": dataset, **metrics}])
    if len(answers["letters"]) > 1:
        config = {"model_name": model, "f1_jump_threshold": JUMP, "max_k_value": MOST, "min_GT_probe_f1": KNOWN}
        config["min_feats_for_eval"] = len(answers["letters"])
        details = [_letter(each) for each in answers["letters"]]
        sections["absorption_first_letter"] = _output(config, {"mean": _over_letters(details)}, details)
    return {name: {"eval_type_id": name, **section} for name, section in sections.items()}


def _output(config: dict, metrics: dict, details: Sequence[dict]) -> dict:
    return {"eval_config": config, "eval_result_metrics": metrics, "eval_result_details": list(details)}


def _letter(letter: dict) -> dict:
    return {
        "first_letter": letter["letter"],
        "mean_absorption_fraction": letter["fraction"],
        "full_absorption_rate": letter["full"] / letter["words"],
        "num_full_absorption": letter["full"],
        "num_probe_true_positives": letter["words"],
        "num_split_features": len(letter["latents"]),
    }


def _over_letters(details: list[dict]) -> dict:
    names = {
        "absorption_fraction_score": "mean_absorption_fraction",
        "full_absorption_score": "full_absorption_rate",
        "num_split_features": "num_split_features",
    }
    columns = {name: [float(each[key]) for each in details] for name, key in names.items()}
    means = {f"mean_{name}": statistics.mean(column) for name, column in columns.items()}
    return means | {f"std_dev_{name}": statistics.stdev(column) for name, column in columns.items()}
