"""Made-up text with activations, and SAEs whose latents fire where one knows."""

import numpy as np
import torch
from rounding import on_grid

from sae_atlas.features.text import Text
from sae_atlas.saes.sae import Sae

START = 0
TOPICS = np.array(["birds", "music", None], object)


def text_of(tokens: np.ndarray, x: np.ndarray) -> Text:
    """Contexts of ids [contexts, context] (0 begins a document) with activations x [contexts, context, d_in].

    Every start begins a document of its own; topics go round.
    """
    mask = tokens != START
    documents = np.cumsum(~mask).reshape(tokens.shape) - 1
    topics = TOPICS[np.arange(documents.max() + 1) % len(TOPICS)]
    return Text(7, tokens.astype(np.int32), mask, documents, topics, x.astype(np.float32))


def one_hot_text(tokens: np.ndarray, strength: np.ndarray, vocabulary: int) -> Text:
    """The activation at a token is `strength` there, in the token's own dimension."""
    return text_of(tokens, np.eye(vocabulary)[tokens] * strength[..., None])


def token_sae(vocabulary: int, k: int | None = None) -> Sae:
    """Latent j reads and writes dimension j, so it fires on token j, by its strength. k: TopK, else ReLU."""
    eye, zero = torch.eye(vocabulary), torch.zeros(vocabulary)
    state = {"b_pre": zero, "encoder.weight": eye, "encoder.bias": zero, "decoder.weight": eye, "decoder.bias": zero}
    recipe = {"architecture": "topk" if k else "relu", "k": k}
    return Sae(state, {"recipe": recipe, "d_in": vocabulary, "d_sae": vocabulary})


def random_text(contexts: int, context: int, d_in: int, seed: int = 0) -> Text:
    """Random ids with a document start here and there, and random activations, on the grid of `rounding`."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(0, 12, (contexts, context))
    tokens[:, 0] = START
    activations = torch.from_numpy(generator.normal(size=(contexts, context, d_in)) * 4 + 1)
    return text_of(tokens, on_grid(activations).numpy())
