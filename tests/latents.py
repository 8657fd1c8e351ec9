"""Tables about latents of made-up layers, in the formats of sae_atlas/features: latent n fires on the n-th of WORDS."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
from random_saes import D_SAE, random_checkpoint
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from models import write_tokenizer
from sae_atlas.corpus import open_corpus, tokenize
from sae_atlas.io.provenance import make_record, recording
from sae_atlas.io.tables import write_table
from sae_atlas.pages.explorer.build import TABLES, write_explorer
from sae_atlas.saes.checkpoint import save

EVIL = "</script><script>document.title='owned'</script><img/src=x/onerror=document.title='owned'>&amp;\"'`${1}"
WORDS = ["ship", "river", "queen", "shipping", "naïve", "東京", EVIL] + [f"word{number}" for number in range(7, D_SAE)]
DEAD = 3  # latents at the end
TOPICS = ["History", "Geography", EVIL]
START = "<|endoftext|>"
EDGES = [2.0 ** (edge / 2) for edge in range(25)]


def word_tokenizer() -> PreTrainedTokenizerFast:
    """An id for each of WORDS, with its space before it, after the document start."""
    spaced = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)
    spelt = [spaced.pre_tokenize_str(word)[0][0] for word in WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate([START, *spelt])}, START))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), spaced])
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=START, clean_up_tokenization_spaces=False)


def write_corpus(folder: Path, context: int = 32) -> Path:
    noise = np.random.default_rng(0)
    documents = [{"text": " ".join(WORDS[at] for at in noise.integers(len(WORDS), size=300))} for _ in range(40)]
    (folder / "text.jsonl").write_text("\n".join(map(json.dumps, documents)))
    text = {"source": "local", "path": str(folder / "text.jsonl")}
    tokenize(write_tokenizer(folder, word_tokenizer()), folder / "corpus.zarr", text, context, 8000, 2000, 0)
    return folder / "corpus.zarr"


def contexts(tokens: np.ndarray, window: int = 12) -> pa.Table:
    """Of every alive latent four contexts at the top and one in the lower bands each, where its word stands."""
    rows = []
    for latent in range(D_SAE - DEAD):
        found = np.argwhere(tokens == latent + 1)[:6].tolist()
        bands = [("top", rank) for rank in range(4)] + [("q75", 0), ("q25", 0)]
        for (row, place), (band, rank) in zip(found, bands, strict=True):
            start = max(0, min(place - window // 2, tokens.shape[1] - window))
            shape = np.zeros(window, np.float32)
            shape[place - start] = {"top": 10.0 - rank, "q75": 5.0, "q25": 1.0}[band] + latent
            if place > start:
                shape[place - start - 1] = shape[place - start] / 4
            rows.append(
                {
                    "latent": latent,
                    "band": band,
                    "rank": rank,
                    "activation": float(shape.max()),
                    "document": row,
                    "topic": TOPICS[latent % 3] if latent % 5 else None,
                    "tokens": tokens[row, start : start + window].tolist(),
                    "activations": shape.tolist(),
                    "peak": place - start,
                    "context": row,
                    "start": start,
                }
            )
    return pa.Table.from_pylist(rows)


def features() -> pa.Table:
    alive = np.arange(D_SAE) < D_SAE - DEAD
    noise = np.random.default_rng(1)
    field = pa.field("histogram", pa.list_(pa.int64()), metadata={"edges": json.dumps(EDGES)})
    counts = [[int(count) if live else 0 for count in noise.integers(0, 50, 24)] for live in alive]
    table = pa.table(
        {
            "latent": np.arange(D_SAE, dtype=np.int32),
            "alive": alive,
            "tokens_seen": np.full(D_SAE, 8000),
            "density": alive * 10 ** noise.uniform(-4, -1, D_SAE),
            "importance": alive * noise.lognormal(0, 1, D_SAE),
            "max_activation": np.where(alive, 10.0 + np.arange(D_SAE), 0).astype(np.float32),
            "promoted": [[f" {WORDS[latent]}s", EVIL] for latent in range(D_SAE)],
            "promoted_logits": [[3.5, 1.25]] * D_SAE,
            "suppressed": [[" not", "\n"]] * D_SAE,
            "suppressed_logits": [[-2.5, -0.5]] * D_SAE,
        }
    )
    return table.append_column(field, pa.array(counts, field.type))


def scores() -> pa.Table:
    noise = np.random.default_rng(2)
    return pa.table(
        {
            "latent": np.arange(D_SAE, dtype=np.int32),
            "topic": [TOPICS[latent % 3] if latent < D_SAE - DEAD else None for latent in range(D_SAE)],
            "topic_auroc": [noise.random() if latent < D_SAE - DEAD else float("nan") for latent in range(D_SAE)],
            "topic_baseline": np.full(D_SAE, 0.3),
            "token_entropy": noise.random(D_SAE),
            "top_token": [f" {word}" for word in WORDS],
            "position_bias": noise.random(D_SAE),
        }
    )


def names() -> pa.Table:
    return pa.table(
        {
            "latent": np.arange(D_SAE, dtype=np.int32),
            "name": [f"says {word}" if latent < D_SAE - DEAD else None for latent, word in enumerate(WORDS)],
            "source": ["offline"] * D_SAE,
            "confidence": np.linspace(1, 0.1, D_SAE),
            "detection": np.linspace(0.5, 0.9, D_SAE),
            "detection_contexts": np.full(D_SAE, 10),
        }
    )


def evolution(layer: int, layers: int) -> pa.Table:
    places = [("snapshot", "1k"), *(("layer", str(other)) for other in (layer - 1, layer + 1) if 0 <= other < layers)]
    rows = [
        {"latent": latent, "axis": axis, "place": place, "match": (latent + 2) % D_SAE, "cosine": 0.75}
        for latent in range(D_SAE)
        for axis, place in places
    ]
    return pa.Table.from_pylist(rows)


def matches(layer: int, layers: int, tokens: np.ndarray) -> pa.Table:
    """Contexts of every match: the word of the latent two before it at first, that of the latent itself beside it."""
    rows = []
    for place in {(row["axis"], row["place"]) for row in evolution(layer, layers).to_pylist()}:
        for match in range(D_SAE - DEAD):
            of = match if place[0] == "layer" else (match - 2) % D_SAE
            for rank, (row, at) in enumerate(np.argwhere(tokens == of + 1)[:3].tolist()):
                start = max(0, at - 2)
                found = {"axis": place[0], "place": place[1], "latent": match, "rank": rank, "context": row}
                rows.append({**found, "start": start, "peak": at - start})
    return pa.Table.from_pylist(rows)


def make_explorer(
    folder: Path, recipes=("topk",), layers: int = 3, shown: int = 3, without=(), base: str = "base"
) -> Path:
    """An explorer of the first `shown` layers from made-up tables, those in `without` left out; the path of its page."""
    corpus = write_corpus(folder)
    tokens = open_corpus(corpus).tokens[:]
    made = {
        "features": features(),
        "contexts": contexts(tokens),
        "scores": scores(),
        "names": names(),
        "evolution": lambda layer: evolution(layer, layers),
        "matches": lambda layer: matches(layer, layers, tokens),
    }
    save(folder / "sae.pt", **random_checkpoint("topk"))
    layers_shown = [(recipe, layer) for recipe in recipes for layer in range(min(layers, shown))]
    tables = {name: [] for name in set(TABLES) - set(without)}
    for number, (_, layer) in enumerate(layers_shown):
        for name, files in tables.items():
            files.append(folder / f"{number}_{name}.parquet")
            write_table(files[-1], made[name](layer) if callable(made[name]) else made[name])
    page = folder / "explorer" / "index.html"
    with recording(make_record("explorer", {}, "", {})):
        write_explorer(
            page,
            corpus,
            folder / "provenance.json",
            [folder / "sae.pt"] * len(layers_shown),
            layers_shown,
            base,
            "resid_post",
            **tables,
        )
    return page
