"""Rows of numbers in place of a model's activations: which sources give them, how many, and the keys that then do nothing.

Without pydantic: jobs read it.
"""

# Sources of base models: saved elsewhere, or drawn from a generative model; and what people read for their rows.
ROWS = {"activations": "saved activations", "synthetic": "synthetic activations"}
OF_ROWS = tuple(ROWS)

# Keys that say how a model is read, by their section.
OF_MODELS = {
    "base_model": ("dtype", "device_map"),
    "activations": ("site", "contexts_per_batch"),
    "evaluation": ("patched_tokens", "contexts_per_batch", "tasks", "task_tokens"),
}


def rows_needed(corpus: dict) -> int:
    """Rows that a corpus takes, in whole contexts: of held-out and of train tokens."""
    return sum(-(-corpus[key] // corpus["context"]) * corpus["context"] for key in ("held_out_tokens", "tokens"))


def as_written(name: str, section: dict) -> dict:
    """A complete section of an atlas of rows as a config can state it: without the keys that do nothing there."""
    return {key: value for key, value in section.items() if key not in OF_MODELS.get(name, ())}
