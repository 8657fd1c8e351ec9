"""A device that is asked for and absent is one clear line."""

import pytest
import torch

from sae_atlas.devices import gpus_for, name_of, resolve
from sae_atlas.errors import AtlasError


def test_cpu_is_always_there():
    assert name_of(resolve("cpu")) == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
def test_a_gpu_that_is_not_there():
    assert resolve("auto") == torch.device("cpu")
    with pytest.raises(AtlasError, match=r"^training\.device: `cuda` is asked for, but .*; set `auto` or `cpu`"):
        resolve("cuda")
    assert [gpus_for(device) for device in ("cpu", "cuda")] == [0, 1]
