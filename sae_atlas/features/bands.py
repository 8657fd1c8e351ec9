"""Which contexts are shown: the highest peaks, and some from lower quantiles, for a latent is more than its peaks."""

from dataclasses import dataclass

import numpy as np

from sae_atlas.features.top_activations import TopActivations

TOP = "top"
QUANTILES = {"q75": 0.75, "q50": 0.5, "q25": 0.25}
BETWEEN = 1 / 8  # a context of a quantile's band lies this close to it, so that the bands do not overlap


@dataclass(frozen=True)
class Chosen:
    """A row per context, by latent, band and rank (0: highest): its place in `TopActivations` (table, slot)."""

    latent: np.ndarray
    band: list[str]
    rank: np.ndarray
    table: np.ndarray  # top or sample
    slot: np.ndarray

    def of(self, kept: TopActivations, name: str) -> np.ndarray:
        """An array of `TopActivations` that has one entry per slot, in the order of these rows."""
        tables = getattr(kept, name)
        found = np.empty((len(self.slot), *tables["top"].shape[2:]), tables["top"].dtype)
        for table, values in tables.items():
            rows = self.table == table
            found[rows] = values[self.latent[rows], self.slot[rows]]
        return found


def choose(kept: TopActivations, documents: np.ndarray) -> Chosen:
    """documents: number of the document at every place of the text.

    The bands below the top hold a third as many contexts, and none of those of the top: fewer, or none, where a latent
    has few. Quantiles are those of its peaks, one per stretch (features.top_activations), estimated from the sample.
    """
    highest, places = kept.value["top"], kept.place["top"]
    order = np.lexsort((places, -highest), axis=-1)
    rows = []
    for latent in np.flatnonzero(kept.fired):
        slots = [slot for slot in order[latent] if highest[latent, slot] > 0]
        rows += [(latent, TOP, rank, "top", slot) for rank, slot in enumerate(slots)]
        for band, slots in _lower(kept, latent, documents).items():
            rows += [(latent, band, rank, "sample", slot) for rank, slot in enumerate(slots)]
    latent, band, rank, table, slot = zip(*rows, strict=True) if rows else ((), (), (), (), ())
    return Chosen(
        np.array(latent, np.int32), list(band), np.array(rank, np.int16), np.array(table), np.array(slot, int)
    )


def _lower(kept: TopActivations, latent: int, documents: np.ndarray) -> dict[str, list[int]]:
    """Slots of the sample per quantile, highest first: those closest to it in rank, of documents not used before."""
    value, place = kept.value["sample"][latent], kept.place["sample"][latent]
    ascending = [slot for slot in np.lexsort((place, value)) if value[slot] > 0]
    shown = set(kept.document[latent].tolist())
    wanted, found = max(1, kept.document.shape[1] // 3), {}
    for band, quantile in QUANTILES.items():
        middle = quantile * (len(ascending) - 1)
        near = [rank for rank in range(len(ascending)) if abs(rank - middle) <= BETWEEN * len(ascending)]
        slots = []
        for rank in sorted(near, key=lambda rank: abs(rank - middle)):
            document = int(documents[place[ascending[rank]]])
            if document not in shown and len(slots) < wanted:
                shown.add(document)
                slots.append((rank, ascending[rank]))
        found[band] = [slot for _, slot in sorted(slots, reverse=True)]
    return found
