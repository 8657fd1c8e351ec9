"""Gemma Scope: a file params.npz {W_enc [d_in, d_sae], b_enc, W_dec [d_sae, d_out], b_dec, threshold}; JumpReLU.

SAEs and transcoders have the same arrays. Which of them it is, and where it reads, only its place in the release says.
"""

from pathlib import Path

import torch

from sae_atlas.publish.formats import saelens
from sae_atlas.publish.formats.foreign import checked, checkpoint
from sae_atlas.saes.archive import read_npz


def read(path: str | Path, is_transcoder: bool) -> dict:
    """The checkpoint. Both kinds encode x itself."""
    path = Path(path)
    shapes = saelens.OF_TRANSCODERS if is_transcoder else saelens.SHAPES
    arrays = {name: torch.from_numpy(array) for name, array in read_npz(path, "Fetch it again.").items()}
    tensors = checked(path, arrays, shapes | {"threshold": ("d_sae",)})
    return checkpoint(
        tensors["W_enc"].T,
        tensors["b_enc"],
        tensors["W_dec"],
        tensors["b_dec"],
        "jumprelu",
        threshold=tensors["threshold"],
        centred=False,
        is_transcoder=is_transcoder,
        activations={},
        stated={},
    )
