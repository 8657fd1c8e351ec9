"""What the tests beside several peers read, made once."""

from importlib.util import find_spec

import pytest

# Our probes need scikit-learn, which the benchmark's environment lacks; `make test-peers` runs these in our own.
collect_ignore = [] if find_spec("sklearn") else ["test_saebench_parts.py"]


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """An SAE of the embedded model (embedded_sae.Trained)."""
    from embedded_sae import train

    return train(tmp_path_factory.mktemp("trained"))
