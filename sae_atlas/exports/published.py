"""The SAELens pair of a published SAE, beside its model.pt."""

from pathlib import Path

from sae_atlas.cards.facts import read_origin
from sae_atlas.exports import saelens
from sae_atlas.exports.metadata import metadata
from sae_atlas.saes.sae import Sae


def export_saelens(
    checkpoint: str | Path,
    provenance: str | Path,
    corpus: str | Path,
    folder: str | Path,
    base: str,
    text: str,
    expects: dict,
) -> None:
    """Write cfg.json and sae_weights.safetensors of `checkpoint` into `folder`.

    base, text: names of base model and corpus. Raises AtlasError if base model or corpus are of another run.
    """
    sae = Sae.load(checkpoint)
    saelens.write(folder, sae, metadata(sae.config, read_origin(provenance, corpus, base, text, expects)))
