"""Empty modules in the place of large packages that the peers import at the top and a training step never calls."""

import sys
from importlib.machinery import ModuleSpec
from unittest.mock import MagicMock

NAMES = ("wandb", "nnsight")  # experiment logs and model tracing, each with tens of packages behind it


def put_in_place() -> None:
    for name in NAMES:
        if name not in sys.modules:
            stand_in = MagicMock(name=name)
            stand_in.__spec__ = ModuleSpec(name, None)
            sys.modules[name] = stand_in
