"""What the norm before a block's MLP does after it has normalised: some transcoders read the stream in between."""

import torch
from torch import Tensor, nn

from sae_atlas.io.errors import AtlasError
from sae_atlas.sites.hooks import point_of
from sae_atlas.sites.measure import measure

STREAMS = 4  # random ones, on which the norm is tried
LARGE = 1e3  # their size, beside which the norm's epsilon is nothing
ALIKE = 1e-4  # relative, of what the norm gives


def norm_weights(model: nn.Module, layer: int) -> tuple[Tensor, Tensor]:
    """(scale, shift), [d] each, in float32: mlp_in = scale * normalised + shift.

    `normalised` is the stream over its root mean square, or, where the norm subtracts its mean, over its standard deviation:
    what TransformerLens calls `ln2.hook_normalized`. Both are measured on the norm itself. Raises AtlasError where no module
    gives mlp_in, where that is no such norm, or where a scale is 0.
    """
    point_of(model, "mlp_in", layer)
    path = measure(model).blocks[layer].gives.get("mlp_in")
    if path is None:
        raise AtlasError(
            f"activations.site: no module of layer {layer} gives mlp_in, so that its norm cannot be measured"
        )
    norm, d = model.get_submodule(path), model.get_input_embeddings().weight.shape[1]
    first = next(norm.parameters(), next(model.parameters()))
    streams = LARGE * torch.randn(STREAMS, d, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        shift, *given = norm(torch.cat([torch.zeros(1, d), streams]).to(first)).float().cpu()
    given = torch.stack(given) - shift
    for centred in (streams, streams - streams.mean(dim=1, keepdim=True)):
        normalised = centred / centred.square().mean(dim=1, keepdim=True).sqrt()
        scale = (given * normalised).sum(dim=0) / normalised.square().sum(dim=0)
        if (given - scale * normalised).norm() <= ALIKE * given.norm():
            if not scale.all():
                raise AtlasError(
                    f"base_model: {path} multiplies by 0, so that what it normalised cannot be had from mlp_in"
                )
            return scale, shift
    raise AtlasError(f"base_model: {path}, which gives mlp_in, is no RMS norm and no layer norm with weights")
