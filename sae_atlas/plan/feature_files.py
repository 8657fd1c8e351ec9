"""Bytes of the tables about the latents and of the explorer, estimated from the config.

Per row and token as measured on SmolLM2-135M (4,608 latents, TopK 32, 40k tokens of introductions), where these sums
come within a quarter of every file. Where few latents are alive they are upper bounds.
"""

from sae_atlas.features.explorer.tables import SHOWN
from sae_atlas.plan.stages.features import OF_MATCH

ROW, TOKEN = 20, 2  # of a context: its row, and each token in its window with its activation
ABOUT = 226  # a latent in the table of features: histogram and lens
PAIR = 6.3  # an active entry, in the table of latents by document
READ = 18  # a token that was read, in the table of raw activations
DOCUMENT = 64  # tokens of a document, where the text tells no better
MATCH = 10
SCORED, NAMED = 31, 17  # a latent
SHOWN_LATENT, SHOWN_CONTEXT, SHOWN_MATCH = 120, 12, 8  # in the explorer


def of_contexts(latents: int, contexts: int, window: int, tokens: int, active: float, d_in: int) -> float:
    """The four tables of top_contexts. active: latents per token."""
    rows = latents * (contexts + 3 * max(1, contexts // 3))
    raw = tokens * READ + tokens / DOCUMENT * d_in * 4
    return rows * (ROW + TOKEN * window) + latents * ABOUT + tokens * active * PAIR + raw


def of_matches(latents: int, places: int) -> float:
    return latents * places * OF_MATCH["contexts"] * (ROW + TOKEN * OF_MATCH["window"])


def of_explorer(latents: int, contexts: int, places: int) -> float:
    """What one layer takes."""
    lower = 3 * min(SHOWN["q50"], max(1, contexts // 3))
    return latents * (SHOWN_LATENT + SHOWN_CONTEXT * (min(SHOWN["top"], contexts) + lower) + SHOWN_MATCH * places)
