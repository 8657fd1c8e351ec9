"""What a job does not use it does not import: torch takes 1.5 s to start, transformers 2, pandas 0.3, and jobs are many."""

import subprocess
import sys

import pytest

from sae_atlas.stages import STAGES
from sae_atlas.stages.figures import FIGURES
from workflow import ROOT

HEAVY = {"torch", "transformers", "pandas", "numba", "matplotlib"}
OF_TABLES = {"pandas"}
OF_FIGURES = {"pandas", "matplotlib"}
# Stage -> what of HEAVY its module may import before it works; what depends on the model at hand comes later.
MAY_IMPORT = {
    "model_card": set(),
    "release": set(),
    "shard_activations": set(),
    "tokenize": set(),
    "collect_metrics": OF_TABLES,
    "floors": OF_TABLES,
    "name_latents": OF_TABLES,
    "page": OF_FIGURES,
    **{f"plot_{name}": OF_FIGURES for name in FIGURES},
    "train_sae": {"torch"},
    "evaluate_sae": {"torch"},
    "save_held_out": {"torch"},
    "save_activations": {"torch"},
}
LOOK = """
import sys
from sae_atlas.stages.job import job
import {module}
print(*sorted({heavy} & set(sys.modules)))
"""


def imported(code: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


@pytest.mark.parametrize("stage", MAY_IMPORT)
def test_a_job_imports_what_its_kind_needs(stage):
    module = f"sae_atlas.{STAGES[stage].runs.split(':')[0]}"
    assert imported(LOOK.format(module=module, heavy=HEAVY)) <= MAY_IMPORT[stage]


def test_columns_become_a_table_without_pandas():
    code = """
import sys
import numpy as np
from sae_atlas.io.tables import table_of
columns = {"text": ["a", "\u00e4", ""], "number": [1, 2, 3], "value": [0.5, float("nan"), 1.0]}
columns["rows"] = np.ones((3, 2), np.float32)
table = table_of(columns)
without = "pandas" not in sys.modules
import pyarrow as pa
plain = pa.table({**columns, "rows": list(columns["rows"])})
assert table.schema == plain.schema, (table.schema, plain.schema)
assert str(table.to_pylist()) == str(plain.to_pylist())
print("without" if without else "with")
"""
    assert imported(code) == {"without"}
