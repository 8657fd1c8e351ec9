"""Releases of nothing but tensors in one file of torch.save: what their latents are is known of the release."""

import re
from functools import partial
from pathlib import Path
from typing import NamedTuple

from sae_atlas.config.layouts import LAYOUTS
from sae_atlas.publish.formats.foreign import FOLDS, checkpoint, site_and_layer, weights
from sae_atlas.saes.checkpoint import load_tensors
from sae_atlas.sites import HEADS


class Release(NamedTuple):
    centred: bool  # does its encoder read x - b_dec?
    hook: str  # where it reads
    layer: re.Pattern[str]  # in the file's name
    folded: tuple[str, ...] = ()  # settings of TransformerLens that took biases out of what it reads (sites.values)


LAST_NUMBER = re.compile(r".*-l(\d+)\.\w+")
RELEASES = {  # format -> what is known of it; all are ReLU SAEs
    "goodfire": Release(False, "blocks.{layer}.hook_resid_post", LAST_NUMBER),
    "deepseek_r1": Release(False, "blocks.{layer}.hook_resid_post", LAST_NUMBER),
    # Its files say nothing of the model; its own code loads it by HookedTransformer.from_pretrained, whose defaults these are.
    "connor_rob_hook_z": Release(True, HEADS, re.compile(r".*_L(\d+)_Hcat_z_.*"), FOLDS),
}


def read(path: str | Path, kind: str) -> dict:
    """The checkpoint of a format of RELEASES. Its layer is not known where the file was renamed."""
    path, release = Path(path), RELEASES[kind]
    tensors = weights(path, load_tensors(path, "Fetch it again."), LAYOUTS[kind])
    match = release.layer.fullmatch(path.name)
    hook = release.hook.format(layer=match[1]) if match else None
    folded = {"folded": list(release.folded)} if release.folded else {}
    return checkpoint(
        **tensors,
        architecture="relu",
        centred=release.centred,
        activations=site_and_layer(path, "the name", hook) | folded,
        stated={},
    )


READERS = {kind: partial(read, kind=kind) for kind in RELEASES}
