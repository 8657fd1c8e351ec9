"""What the biases of attention's values add to what its heads give: some SAEs read the heads without it."""

import torch
from torch import Tensor, nn

from sae_atlas.io.errors import AtlasError
from sae_atlas.sites import MODULE_INPUT
from sae_atlas.sites.hooks import capture, patch
from sae_atlas.sites.trace import forward_pass, trial_tokens

ALIKE = 1e-4  # relative, of what the heads give at different tokens


def value_bias(model: nn.Module, site: str, layer: int, with_norm: bool) -> Tensor:
    """What all heads of a layer give at every token, whatever they read, side by side: [d], in float32.

    A head's weights add up to 1, so that a bias of its values comes out as it is: the heads give it alone where attention reads
    zeros. That is TransformerLens' b_V under `fold_value_biases`; with `fold_ln` as well (with_norm) what attention reads of a
    stream of zeros counts, too, which is the bias of the norm before it.

    site: the input of attention's output projection, `in:transformer.h.{layer}.attn.c_proj`. Raises AtlasError where point_of
    does, and where the heads then give different values at different tokens.
    """
    attention = f"{MODULE_INPUT}{site.removeprefix(MODULE_INPUT).rpartition('.')[0]}"
    silenced = "resid_pre" if with_norm else attention
    with (
        torch.inference_mode(),
        patch(model, silenced, layer, torch.zeros_like),
        capture(model, site, [layer]) as heads,
    ):
        forward_pass(model, trial_tokens(model))
    given = heads[layer].flatten(0, 1).float().cpu()
    if not (given - given[0]).norm() <= ALIKE * given.norm():
        raise AtlasError(
            f"activations.site: with no input the heads of {site.replace('{layer}', str(layer))} give different values at "
            "different tokens, so that the biases of their values cannot be measured"
        )
    return given[0].clone()
