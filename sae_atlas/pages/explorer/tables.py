"""Data of one layer in the explorer, from its tables: columns for the list, and blocks of latents with their contexts."""

import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from sae_atlas.features.trials import FURTHER
from sae_atlas.pages.explorer.pack import short
from sae_atlas.pages.explorer.text import Text

LATENTS_PER_FILE = 512
SHOWN = {"top": 10, "q75": 3, "q50": 3, "q25": 3}  # contexts of every band
SEARCHED = 4  # tokens by which a latent can be searched: as many at its highest peaks as among those it promotes most
LENS = 8  # promoted and suppressed tokens shown of a latent
LEVELS = "0123456789abcdefghijklmnopqrstuvwxyz"  # of a token: its activation over the latent's highest, rounded up


@dataclass(frozen=True)
class Layer:
    """Tables of a layer, a row per latent in their order; those that were not made are None."""

    features: pa.Table
    contexts: pa.Table
    scores: pa.Table | None = None
    names: pa.Table | None = None
    evolution: pa.Table | None = None
    matches: pa.Table | None = None
    neighbours: tuple[np.ndarray, np.ndarray] | None = None  # latents and cosines, [d_sae, n]


def columns(layer: Layer, contexts: "Contexts") -> dict:
    """The list of latents: a column per property, null where a latent has none; a score that no latent has is left out."""
    features = layer.features
    values = {
        "latents": len(features),
        "block": LATENTS_PER_FILE,
        "tokens_seen": int(features["tokens_seen"][0].as_py()),
        "edges": short(json.loads(features.schema.field("histogram").metadata[b"edges"])),
        "alive": features["alive"].to_numpy().astype(int).tolist(),
        "density": short(features["density"]),
        "importance": short(features["importance"]),
        "highest": short(features["max_activation"]),
        "peaks": contexts.peak_tokens(),
        "promotes": [tokens[:SEARCHED] for tokens in features["promoted"].to_pylist()],
        "topics": contexts.topics,
        "places": [list(reference) for reference in _references(layer.evolution)],
    }
    if layer.scores is not None:
        values["topic"] = [_index(contexts.topics, topic) for topic in layer.scores["topic"].to_pylist()]
        for name, column in {
            "selectivity": "topic_auroc",
            "chance": "topic_baseline",
            "entropy": "token_entropy",
            "position_bias": "position_bias",
        }.items():
            if layer.scores[column].null_count < len(layer.scores):
                values[name] = short(layer.scores[column])
    if layer.names is not None and layer.names["name"].null_count < len(layer.names):
        values["name"] = layer.names["name"].to_pylist()
        values["source"] = layer.names["source"].to_pylist()
        for name in ("confidence", "detection", *FURTHER):
            if name in layer.names.column_names:
                values[name] = short(layer.names[name], 2)
    return values


def blocks(layer: Layer, contexts: "Contexts") -> list[dict]:
    """The pages of the latents, LATENTS_PER_FILE latents in a block."""
    features, count = layer.features, len(layer.features)
    wide = {"histogram": features["histogram"].to_pylist()}
    wide["promoted"] = [
        row[SEARCHED:LENS] for row in features["promoted"].to_pylist()
    ]  # the first ones are in the list
    wide["suppressed"] = [row[:LENS] for row in features["suppressed"].to_pylist()]
    for name in ("promoted_logits", "suppressed_logits"):
        wide[name] = [short(row[:LENS], 2) for row in features[name].to_pylist()]
    wide["matches"] = _matches(layer.evolution, count)
    if layer.matches is not None:
        wide["formed"] = contexts.of_matches(layer.matches, wide["matches"], _references(layer.evolution))
    if layer.neighbours is not None:
        latents, cosines = layer.neighbours
        wide["neighbours"] = latents.tolist()
        wide["cosines"] = np.round(cosines, 2).tolist()
    return [
        {name: rows[first : first + LATENTS_PER_FILE] for name, rows in wide.items()}
        | contexts.of(first, min(first + LATENTS_PER_FILE, count))
        for first in range(0, count, LATENTS_PER_FILE)
    ]


class Contexts:
    """The contexts of a layer that are shown, by latent, band and rank."""

    def __init__(self, table: pa.Table, highest: np.ndarray, text: Text, topics: list[str]):
        """table: of features.top_contexts, all bands; highest [d_sae]: the latents' largest activations; topics: by number."""
        self.topics = topics
        bands = np.array([_index(list(SHOWN), band) for band in table["band"].to_pylist()], int)
        latents, ranks = table["latent"].to_numpy(), table["rank"].to_numpy()
        chosen = ranks < np.array(list(SHOWN.values()))[bands]
        order = np.lexsort((ranks, bands, latents))
        order = order[chosen[order]]
        table = table.take(order)
        self.latents, self.bands = latents[order], bands[order]
        self.counts = np.zeros((len(highest), len(SHOWN)), np.int64)
        np.add.at(self.counts, (self.latents, self.bands), 1)
        self.text = text
        start, peak = (table[name].to_numpy() for name in ("start", "peak"))
        number = text.number(table["context"].to_numpy())
        self.peaks = text.tokens[number, start + peak]
        self.peak_positions = text.peak_positions(table)
        self.columns = {
            "row": number.tolist(),
            "start": start.tolist(),
            "peak": peak.tolist(),
            "length": [len(each) for each in table["tokens"].to_pylist()],
            "activation": short(table["activation"]),
            "context_topic": [_index(topics, topic) for topic in table["topic"].to_pylist()],
            "shade": shades(table["activations"], highest[self.latents]),
        }

    def of(self, first: int, last: int) -> dict:
        """Contexts of the latents first .. last - 1, and their numbers by band."""
        here = slice(*np.searchsorted(self.latents, [first, last]).tolist())
        return {name: column[here] for name, column in self.columns.items()} | {
            "counts": self.counts[first:last].tolist()
        }

    def of_matches(self, table: pa.Table, matches: list[list], references: list[tuple]) -> list[list[list[int]]]:
        """For every latent and reference: positions in the text of the peaks of the highest contexts of its match.

        Most are contexts of the latent itself; these are given by their number among its own: -1 for the first.
        """
        peaks_of_match: dict[tuple, list[int]] = {}
        keys = zip(*(table[name].to_pylist() for name in ("axis", "place", "latent")), strict=True)
        for key, position in zip(keys, self.text.peak_positions(table).tolist(), strict=True):
            peaks_of_match.setdefault(key, []).append(position)
        ends = np.searchsorted(self.latents, np.arange(len(matches) + 1)).tolist()
        peaks_of_latents = []
        for latent, of_latent in enumerate(matches):
            positions = self.peak_positions[ends[latent] : ends[latent + 1]].tolist()
            own = {position: -1 - number for number, position in enumerate(positions)}
            peaks = [
                peaks_of_match.get((*reference, match and match[0]), [])
                for reference, match in zip(references, of_latent, strict=True)
            ]
            peaks_of_latents.append([[own.get(position, position) for position in each] for each in peaks])
        return peaks_of_latents

    def peak_tokens(self) -> list[list[int]]:
        """The first SEARCHED different tokens at the highest peaks of every latent."""
        tokens_of_latent: list[dict[int, None]] = [{} for _ in self.counts]
        top = self.bands == 0
        for latent, token in zip(self.latents[top].tolist(), self.peaks[top].tolist(), strict=True):
            if len(tokens_of_latent[latent]) < SEARCHED:
                tokens_of_latent[latent][token] = None
        return [list(tokens) for tokens in tokens_of_latent]


def shades(activations: pa.ChunkedArray, highest: np.ndarray) -> list[str]:
    """A character of LEVELS per token of every window, zeros at the end left out."""
    flat = activations.combine_chunks()
    lengths = np.diff(flat.offsets.to_numpy())
    share = flat.flatten().to_numpy() / np.repeat(highest, lengths)
    levels = np.ceil(np.clip(share, 0, 1) * (len(LEVELS) - 1)).astype(np.uint8)
    text = np.frombuffer(LEVELS.encode(), np.uint8)[levels].tobytes().decode()
    ends = np.cumsum(lengths).tolist()
    return [text[end - length : end].rstrip("0") for end, length in zip(ends, lengths.tolist(), strict=True)]


def _index(names: list[str], name: str | None) -> int:
    return names.index(name) if name is not None else -1


def _references(evolution: pa.Table | None) -> list[tuple[str, str]]:
    """(axis, place) of what the latents were matched with: snapshots in the order of the table, then layers."""
    if evolution is None:
        return []
    pairs = dict.fromkeys(zip(evolution["axis"].to_pylist(), evolution["place"].to_pylist(), strict=True))
    return sorted(pairs, key=lambda pair: pair[0] == "layer")


def _matches(evolution: pa.Table | None, count: int) -> list[list]:
    """For every latent and reference its match and the cosine; null where there is none."""
    column_of = {pair: number for number, pair in enumerate(_references(evolution))}
    matches: list[list] = [[None] * len(column_of) for _ in range(count)]
    if evolution is None:
        return matches
    rows = (evolution[name].to_pylist() for name in ("latent", "axis", "place", "match", "cosine"))
    for latent, axis, place, match, cosine in zip(*rows, strict=True):
        matches[latent][column_of[axis, place]] = [match, round(cosine, 2)]
    return matches
