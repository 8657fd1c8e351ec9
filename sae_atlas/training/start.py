"""Begin training at the weights of another SAE, of any architecture and from any store."""

from pathlib import Path

import torch

from sae_atlas.io.errors import AtlasError
from sae_atlas.io.log import logger
from sae_atlas.saes import architecture
from sae_atlas.saes.checkpoint import load_checkpoint, unfold, unfold_transcoder
from sae_atlas.training.recipe import Recipe
from sae_atlas.training.state import State

UNIT = 1e-3  # decoder norms this close to 1 are 1 to rounding, as of SAEs trained here


def begin_at(state: State, path: str | Path, recipe: Recipe) -> State:
    """The initial state with the weights of a checkpoint, in the scaled space of its own normaliser.

    Decoder rows get norm 1, which training keeps, and encoder, bias and threshold the norm they had: reconstructions stay,
    except that TopK then chooses by what a latent adds, that matching pursuit takes the decoder alone, and that what has no
    threshold begins without the one there was. A latent whose decoder row is 0 begins at a random row, silent. Raises
    AtlasError for an SAE of other sizes or another kind.
    """
    checkpoint = load_checkpoint(path)
    said, d_in = checkpoint["config"], len(state.mean)
    wanted = {"d_in": d_in, "d_sae": recipe.d_sae(d_in), "d_out": None}
    if state.target_mean is not None:
        wanted["d_out"] = len(state.target_mean)
    for name, size in wanted.items():
        if said.get(name) != size:
            raise AtlasError(
                f"{path}: its {name} is {said.get(name)}, start_from of this recipe needs {size}; begin at an SAE of this "
                "site, or set `expansion` to its width"
            )
    if said.get("token_norm"):
        raise AtlasError(f"{path}: normalises every token ({said['token_norm']}), which no weights can begin at")
    if "skip.weight" in checkpoint["model_state"] and not recipe.skip:
        raise AtlasError(f"{path}: has a skip connection and the recipe that begins at it none; set `skip: true`")
    if state.target_mean is None:
        weights, threshold = unfold(checkpoint["model_state"], state.mean, state.scale)
    else:
        normalisers = (state.mean, state.scale), (state.target_mean, state.target_scale)
        weights, threshold = unfold_transcoder(checkpoint["model_state"], *normalisers)
    norms = weights["W_dec"].norm(dim=1)
    if (norms - 1).abs().max() > UNIT:
        logger.info("decoder rows of norm %.3g to %.3g are scaled to 1", norms.min(), norms.max())
        writes = norms[:, None] > 0
        weights["W_dec"] = torch.where(writes, weights["W_dec"] / norms[:, None], state.weights["W_dec"])
        weights["W_enc"], weights["b_enc"] = weights["W_enc"] * norms[:, None], weights["b_enc"] * norms
        threshold = None if threshold is None else threshold * norms
    module = architecture(recipe.architecture)
    if recipe.architecture == "gated" and threshold is None:
        threshold = torch.zeros_like(weights["b_enc"])  # its gate has a bias of its own
    if hasattr(module, "extra_weights") and threshold is not None:
        weights |= module.extra_of_inference(weights, threshold)
    state.weights |= {name: weight.float().contiguous() for name, weight in weights.items() if name in state.weights}
    logger.info("begins at the weights of %s, %s", path, said["recipe"]["architecture"])
    return state
