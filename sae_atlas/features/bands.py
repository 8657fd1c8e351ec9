"""Which contexts are shown of a latent: those of its highest peaks, and some around lower quantiles of all its peaks."""

from dataclasses import dataclass

import numpy as np

from sae_atlas.features.top_activations import TopActivations

TOP = "top"
QUANTILES = {"q75": 0.75, "q50": 0.5, "q25": 0.25}
BETWEEN = 1 / 8  # largest distance in rank from a band's quantile, as a share of all peaks: bands do not overlap


@dataclass(frozen=True)
class Chosen:
    """A row per context, by latent, band and rank (0: highest), with its table and slot in `TopActivations`."""

    latent: np.ndarray
    band: list[str]
    rank: np.ndarray
    table: np.ndarray  # top or sample
    slot: np.ndarray

    def of(self, top_activations: TopActivations, name: str) -> np.ndarray:
        """An array of `TopActivations` that has one entry per slot, in the order of these rows."""
        tables = getattr(top_activations, name)
        chosen = np.empty((len(self.slot), *tables["top"].shape[2:]), tables["top"].dtype)
        for table, values in tables.items():
            rows = self.table == table
            chosen[rows] = values[self.latent[rows], self.slot[rows]]
        return chosen


def choose(top_activations: TopActivations, documents: np.ndarray) -> Chosen:
    """The contexts to show of every latent that fires. documents: number of the document at every position of the text.

    A band below the top has a third as many contexts as the top, of other documents; fewer, or none, where the latent has
    few. Its quantile is one of the latent's peaks, one per stretch (features.top_activations), estimated from the sample.
    """
    highest, positions = top_activations.value["top"], top_activations.position["top"]
    order = np.lexsort((positions, -highest), axis=-1)
    rows = []
    for latent in np.flatnonzero(top_activations.fired):
        slots = [slot for slot in order[latent] if highest[latent, slot] > 0]
        rows += [(latent, TOP, rank, "top", slot) for rank, slot in enumerate(slots)]
        for band, slots in _lower(top_activations, latent, documents).items():
            rows += [(latent, band, rank, "sample", slot) for rank, slot in enumerate(slots)]
    latent, band, rank, table, slot = zip(*rows, strict=True) if rows else ((), (), (), (), ())
    return Chosen(
        np.array(latent, np.int32), list(band), np.array(rank, np.int16), np.array(table), np.array(slot, int)
    )


def _lower(top_activations: TopActivations, latent: int, documents: np.ndarray) -> dict[str, list[int]]:
    """Slots of the sample per quantile, highest first: those closest to it in rank, of documents not used before."""
    value, position = top_activations.value["sample"][latent], top_activations.position["sample"][latent]
    ascending = [slot for slot in np.lexsort((position, value)) if value[slot] > 0]
    used_documents = set(top_activations.document[latent].tolist())
    wanted, slots_of_band = max(1, top_activations.document.shape[1] // 3), {}
    for band, quantile in QUANTILES.items():
        middle = quantile * (len(ascending) - 1)
        near = [rank for rank in range(len(ascending)) if abs(rank - middle) <= BETWEEN * len(ascending)]
        slots = []
        for rank in sorted(near, key=lambda rank: abs(rank - middle)):
            document = int(documents[position[ascending[rank]]])
            if document not in used_documents and len(slots) < wanted:
                used_documents.add(document)
                slots.append((rank, ascending[rank]))
        slots_of_band[band] = [slot for _, slot in sorted(slots, reverse=True)]
    return slots_of_band
