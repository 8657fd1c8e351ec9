"""The folder of a published SAE: weights, config and card, and the SAELens pair beside them. Without torch."""

from collections.abc import Sequence
from pathlib import Path

from sae_atlas.publish.cards.facts import read_origin
from sae_atlas.publish.cards.model_card import write_model_card
from sae_atlas.publish.formats.metadata import metadata
from sae_atlas.publish.formats.saelens_pair import write_checkpoint
from sae_atlas.saes.archive import read_arrays


def publish_sae(
    checkpoint: str | Path,
    metrics: str | Path,
    base_model: str | Path,
    corpus: str | Path,
    card: str | Path,
    name: str,
    base: str,
    text: str,
    author: str,
    further: Sequence[str | Path] = (),
) -> None:
    """Fill the folder of `card`, which is called `name`: the SAELens pair, then what `write_model_card` writes."""
    origin, sae, folder = read_origin(base_model, corpus, base, text), read_arrays(checkpoint), Path(card).parent
    write_checkpoint(folder, sae["model_state"], sae["config"], metadata(sae["config"], origin))
    write_model_card(checkpoint, metrics, origin, folder, name, author, further)
