"""What every stage depends on: a function per rule, in a file named after its file in workflow/rules."""

from sae_atlas.stages import (
    activations,
    base_model,
    corpus,
    evaluation,
    explorer,
    features,
    figures,
    floors,
    lifecycle,
    names,
    publishing,
    tasks,
    training,
)
from sae_atlas.stages.declare import STAGES

__all__ = [
    "STAGES",
    "activations",
    "base_model",
    "corpus",
    "evaluation",
    "explorer",
    "features",
    "figures",
    "floors",
    "lifecycle",
    "names",
    "publishing",
    "tasks",
    "training",
]
