"""Keys that do nothing where saved activations stand in place of a model. Without pydantic: jobs read it."""

# Keys that say how a model is read, by their section.
OF_MODELS = {
    "base_model": ("dtype", "device_map"),
    "activations": ("site", "contexts_per_batch"),
    "evaluation": ("patched_tokens", "contexts_per_batch", "tasks", "task_tokens"),
}


def as_written(name: str, section: dict) -> dict:
    """A complete section of saved activations as a config can state it: without the keys that do nothing there."""
    return {key: value for key, value in section.items() if key not in OF_MODELS.get(name, ())}
