"""Gemma Scope: a file params.npz {W_enc [d_in, d_sae], b_enc, W_dec [d_sae, d_out], b_dec, threshold}; JumpReLU.

SAEs and transcoders have the same arrays. Which of them it is, and where an SAE reads, only its place in the release says;
transcoders read what the norm gives before its weights.
"""

from pathlib import Path

import torch

from sae_atlas.config.layouts import LAYOUTS, Layout, of_transcoder
from sae_atlas.io.errors import AtlasError
from sae_atlas.publish.formats.foreign import checkpoint, weights
from sae_atlas.saes.archive import read_npz
from sae_atlas.sites import NORMALISED

FACTOR: Layout = {"factor": ("scaling_factor", ("d_sae",))}  # of the latents; only ones were published
EMBEDDING = "embedding"  # folder of the SAEs on token embeddings


def read(path: str | Path, is_transcoder: bool) -> dict:
    """The checkpoint. Both kinds encode x itself.

    Raises AtlasError for an SAE on token embeddings: it was trained on them before the model multiplies them by the root of
    their dimensions, which no site of a block is.
    """
    path = Path(path)
    if EMBEDDING in path.parts[-4:]:
        raise AtlasError(
            f"{path}: is of token embeddings before the model scales them, which no block reads; take an SAE of a layer"
        )
    layout = of_transcoder(LAYOUTS["gemma_scope"]) if is_transcoder else LAYOUTS["gemma_scope"]
    arrays = {
        f"W_{name[2:]}" if name.startswith("w_") else name: torch.from_numpy(array)
        for name, array in read_npz(path, "Fetch it again.").items()
    }
    tensors = weights(path, arrays, layout, later=FACTOR)
    factor = tensors.pop("factor", None)
    if factor is not None and not torch.all(factor == 1):
        raise AtlasError(
            f"{path}: scaling_factor is not 1, and what it multiplies is not stated; no SAE of the release has one"
        )
    return checkpoint(
        **tensors,
        architecture="jumprelu",
        centred=False,
        is_transcoder=is_transcoder,
        activations={"site": NORMALISED} if is_transcoder else {},
        stated={},
    )
