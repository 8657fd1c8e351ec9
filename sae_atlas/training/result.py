"""What training leaves: the checkpoint of the state at a window's end."""

from pathlib import Path

from sae_atlas.io.devices import name_of
from sae_atlas.io.provenance import current_record
from sae_atlas.saes import architecture
from sae_atlas.saes import checkpoint as checkpoints
from sae_atlas.saes.architectures import uses
from sae_atlas.training import controller
from sae_atlas.training.window import Window


def save_sae(path: str | Path, values: dict, window: Window, activations: dict) -> None:
    """Write the checkpoint. values: the recipe, plain; activations: base_model, site, layer, and a transcoder's target site."""
    recipe, state, rows = window.recipe, window.state.to("cpu"), window.curve.rows
    d_in = len(state.mean)
    module = architecture(recipe.architecture)
    weights, threshold = state.weights, None
    if hasattr(module, "inference"):
        weights, threshold = module.inference(state.weights, state.smallest)
    config = {
        "recipe": values,
        "d_in": d_in,
        "d_sae": recipe.d_sae(d_in),
        "tokens": window.stop,
        "normaliser": {"mean": state.mean, "scale": state.scale},
        "activations": activations,
        "device": name_of(window.device),
        "record": current_record(),
    }
    if window.device.type == "cuda":
        config["gpu_products"] = window.products
    if uses(recipe.architecture, "l1"):
        config["lambda"] = {
            "stated": recipe.l1.coefficient,
            "convention": recipe.l1.convention,
            "canonical": window.first_penalty,
            "last": state.penalty,  # canonical; another than the first where a target L0 moved it
        }
    stats = {"steps": state.steps, "trained_tokens": state.tokens, **rows[-1]}
    if recipe.l1.target_l0 is not None:
        settled = rows[-max(1, len(rows) // 10) :]
        l0 = sum(row["l0"] for row in settled) / len(settled)
        stats |= {"settled_l0": l0, "converged": abs(l0 / recipe.l1.target_l0 - 1) <= controller.CONVERGED}
    if state.target_mean is None:
        folded = checkpoints.fold(weights, threshold, state.mean, state.scale)
    else:
        config["d_out"] = len(state.target_mean)
        config["normaliser"] |= {"target_mean": state.target_mean, "target_scale": state.target_scale}
        normalisers = (state.mean, state.scale), (state.target_mean, state.target_scale)
        folded = checkpoints.fold_transcoder(weights, threshold, *normalisers)
    checkpoints.save(path, folded, config, stats)
