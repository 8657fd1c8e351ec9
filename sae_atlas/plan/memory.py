"""Peak memory of one job, of the rules that need more with the model, the SAE or the length of a context; on a CPU.

Sums of the arrays that are there at once; benchmarks/LOAD.md has them beside what was measured. On a GPU weights, averages
and gradients lie there.
"""

import math
from collections.abc import Callable

from sae_atlas.plan.jobs import jobs
from sae_atlas.plan.shape import Shape
from sae_atlas.plan.stages.activations import saved_dtype
from sae_atlas.plan.text_memory import OF_TEXTS, text_memory
from sae_atlas.plan.work import MEDIAN_ROWS
from sae_atlas.saes.architectures import uses

LIBRARIES = 0.45e9  # torch, transformers and numba with what they set up
SINGLE = 4  # bytes of a float32
OF_VALUE = {"float32": 4, "bfloat16": 2, "float16": 2}
ROWS = {
    "saved": 4096,
    "step": 256,
    "measured": 1024,
    "looked at": 512,
}  # tokens worked on at once, as the stages have it
CHUNKS = 5  # of a store that are in memory: read ahead, in hand and cut up
LATENT = 20  # bytes of a token and latent while it is encoded for measuring: z, the positive, the largest, their places
STEP = 12  # the same in training: z or the int8 product, columns, values
ROUNDED = 1 / 8  # of the weights: the encoder in int8
LOGIT = 16  # of a position and token: two passes' logits, in float32 and as probabilities
NORMS = 16  # per token of a window: its norm, a sorted copy, its number
OF_MEDIAN = 5 * 8  # bytes of a value of the sample: in parts, as one, and three steps of the median, in float64
PEAKS = 5 * 22  # kept of a latent and of one context in the table, besides the window: the highest and the sample
COUNTED = 8 * 128 + 40  # of a latent: how its activations spread
ASKED = {
    "save_activations": 6000,
    "shard_activations": 8000,
    "train_sae": 8000,
    "save_held_out": 6000,
    "evaluate_sae": 6000,
    "top_contexts": 6000,
}  # MB that the rules ask for at first; those of a text ask for what it takes (plan.text_memory)


def memory(atlas, shape: Shape) -> dict[str, float]:
    """Rule -> bytes of its largest job. Other rules need little more than the libraries."""

    def need(rule: str) -> float:
        return text_memory(atlas, rule) if rule in OF_TEXTS else LIBRARIES + NEEDS[rule](atlas, shape)

    return {rule: need(rule) for rule in jobs(atlas) if rule in NEEDS or rule in OF_TEXTS}


def remedies(needed: dict[str, float]) -> list[str]:
    """What `--set-resources` must be told of rules that need more than they ask for."""
    return [
        f"{rule}:mem_mb={math.ceil(need / 1e9) * 1000}"
        for rule, need in needed.items()
        if rule in ASKED and need > ASKED[rule] * 1e6
    ]


def _weights(atlas, recipe: str, shape: Shape) -> float:
    """Bytes of encoder and decoder."""
    return 2 * SINGLE * _latents(atlas, recipe, shape) * shape.d_model


def _latents(atlas, recipe: str, shape: Shape) -> int:
    return atlas.expansion(recipe) * shape.d_model


def _model(atlas, shape: Shape) -> float:
    """The base model, and its file, which is read through memory."""
    return shape.parameters * (OF_VALUE[atlas.config["base_model"]["dtype"]] + shape.value_bytes)


def _pass(atlas, shape: Shape, contexts: int) -> float:
    """What a block makes on the way: as many numbers per token as it has weights per dimension, and the mask of attention."""
    context = atlas.config["corpus"]["context"]
    numbers = contexts * context * shape.block_weights / shape.d_model + context**2
    return numbers * OF_VALUE[atlas.config["base_model"]["dtype"]]


def _logits(atlas, shape: Shape) -> float:
    tokens = atlas.config["evaluation"]["contexts_per_batch"] * atlas.config["corpus"]["context"]
    return LOGIT * tokens * shape.vocabulary


def _save_activations(atlas, shape: Shape) -> float:
    activations = atlas.config["activations"]
    layers = max(map(len, atlas.groups.values()))
    tokens = activations["contexts_per_batch"] * atlas.config["corpus"]["context"]
    waiting = layers * shape.d_model * (ROWS["saved"] * OF_VALUE[saved_dtype(atlas)] + tokens * SINGLE)
    return _model(atlas, shape) + _pass(atlas, shape, activations["contexts_per_batch"]) + waiting


def _shard_activations(atlas, shape: Shape) -> float:
    """A shard, encoded once more when it is written; then the geometric median of the sample."""
    longest = max(stop - start for start, stop in map(atlas.window, atlas.snapshots))
    shard = min(atlas.config["activations"]["shard_rows"], longest) * shape.d_model * OF_VALUE[saved_dtype(atlas)]
    sample = min(MEDIAN_ROWS, longest) * shape.d_model * OF_MEDIAN
    return max(3 * shard, sample) + NORMS * longest


def _train_sae(atlas, shape: Shape) -> float:
    """Weights, two averages, gradients, the encoder in int8; where many latents may be active, the gradients of groups."""
    chunks = CHUNKS * atlas.config["activations"]["chunk_rows"] * shape.d_model * SINGLE

    def need(recipe: str) -> float:
        sparse = uses(atlas.config["recipes"][recipe]["architecture"], "k")
        step = STEP * ROWS["step"] * _latents(atlas, recipe, shape)
        return ((4 if sparse else 8) + ROUNDED) * _weights(atlas, recipe, shape) + step

    return max(map(need, atlas.trained)) + chunks


def _save_held_out(atlas, shape: Shape) -> float:
    batch = atlas.config["evaluation"]["contexts_per_batch"]
    return _model(atlas, shape) + _pass(atlas, shape, batch) + _logits(atlas, shape)


def _evaluate_sae(atlas, shape: Shape) -> float:
    """All snapshots, and the directions of two of them, as they are and of unit length."""

    def need(recipe: str) -> float:
        compared = (len(atlas.snapshots_of(recipe)) + 2) * _weights(atlas, recipe, shape)
        return compared + LATENT * ROWS["measured"] * _latents(atlas, recipe, shape)

    return _save_held_out(atlas, shape) + max(map(need, atlas.recipes))


def _top_contexts(atlas, shape: Shape) -> float:
    """The contexts of all latents; what is kept by document depends on the text and comes on top."""
    features = atlas.config["features"]
    peaks = features["contexts"] * (PEAKS + 5 * SINGLE * features["window"])

    def need(recipe: str) -> float:
        latents = _latents(atlas, recipe, shape)
        return 1.5 * _weights(atlas, recipe, shape) + latents * (peaks + COUNTED + LATENT * ROWS["looked at"])

    return _model(atlas, shape) + max(map(need, atlas.recipes))


NEEDS: dict[str, Callable] = {
    "save_activations": _save_activations,
    "shard_activations": _shard_activations,
    "train_sae": _train_sae,
    "save_held_out": _save_held_out,
    "evaluate_sae": _evaluate_sae,
    "top_contexts": _top_contexts,
}
