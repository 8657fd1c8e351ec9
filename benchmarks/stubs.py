"""Empty modules in the place of large packages that the peers import at the top and a training step never calls."""

import sys
from importlib.machinery import ModuleSpec
from unittest.mock import MagicMock

# Experiment logs and model tracing, each with tens of packages behind it; interactive plots.
NAMES = ("wandb", "nnsight", "plotly", "plotly.graph_objects", "plotly.subplots")


def put_in_place() -> None:
    for name in NAMES:
        if name not in sys.modules:
            stand_in = MagicMock(name=name)
            stand_in.__spec__ = ModuleSpec(name, None)
            sys.modules[name] = stand_in
