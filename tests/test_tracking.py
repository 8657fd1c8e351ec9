"""Curves reach a tracker as they grow, and nothing about the training depends on it."""

import subprocess
import sys

import pytest
from pyarrow import parquet
from stores import make_store
from test_plan_atlas import atlas

from sae_atlas.config.read import complete_recipe
from sae_atlas.io.errors import AtlasError
from sae_atlas.stages.atlas import Atlas
from sae_atlas.training.tracking import tracked
from sae_atlas.training.train import train
from workflow import ROOT

RECIPE = complete_recipe({"architecture": "topk", "expansion": 2, "k": 3, "batch": 64, "warmup": 2, "decay": 0})


def run(folder, store, name: str, watch=None) -> bytes:
    """Train on the store; the checkpoint's bytes."""
    files = {
        "checkpoint": folder / f"{name}.pt",
        "resume": folder / f"{name}.resume.pt",
        "curve": folder / "curve.parquet",
    }
    train(store, RECIPE, 0, 1024, None, **files, watch=watch)
    return files["checkpoint"].read_bytes()


def test_tensorboard_reads_back_the_curve_and_the_weights_are_the_same(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    store = make_store(tmp_path)
    with tracked("tensorboard", "topk/layer00", "1k", tmp_path / "tracker") as watch:
        seen = run(tmp_path, store, "seen", watch)
    rows = parquet.read_table(tmp_path / "curve.parquet").to_pydict()
    events = accumulator.EventAccumulator(str(tmp_path / "tracker" / "topk" / "layer00"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == set(rows) - {"tokens"}
    for name in ("loss", "l0", "alive"):
        scalars = events.Scalars(name)
        assert [each.step for each in scalars] == rows["tokens"]
        assert [each.value for each in scalars] == pytest.approx(rows[name], rel=1e-6)
    (tmp_path / "unseen").mkdir()
    assert run(tmp_path / "unseen", store, "seen") == seen


def test_a_tracker_that_fails_ends_the_tracking_not_the_training(tmp_path, monkeypatch, caplog):
    pytest.importorskip("tensorboard")
    from accelerate.tracking import TensorBoardTracker

    def gone(*_, **__):
        raise ConnectionError("the server went away")

    with tracked("tensorboard", "topk/layer00", "1k", tmp_path / "tracker") as watch:
        monkeypatch.setattr(TensorBoardTracker, "log", gone)
        assert run(tmp_path, make_store(tmp_path), "seen", watch)
    assert [record.message for record in caplog.records if "no more rows are sent" in record.message] == [
        "tensorboard: no more rows are sent (ConnectionError: the server went away); the curve is in results/curves"
    ]


def test_a_tracker_that_is_not_there_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    why = r"training.tracker: wandb needs .*pip install accelerate wandb, or remove the key"
    with pytest.raises(AtlasError, match=why), tracked("wandb", "topk/layer00", "1k", tmp_path):
        pass


def test_without_a_tracker_nothing_is_imported():
    program = """
import sys
from sae_atlas.training.tracking import tracked
import sae_atlas.training.train
with tracked(None, "a", "b", "c") as watch:
    assert watch is None
assert not {"accelerate", "tensorboard", "transformers"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_with_a_tracker_transformers_stays_out(tmp_path):
    pytest.importorskip("tensorboard")
    program = f"""
import sys
from sae_atlas.training.tracking import tracked
with tracked("tensorboard", "a", "b", {str(tmp_path)!r}):
    assert "accelerate" in sys.modules and "transformers" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


@pytest.mark.parametrize("tracker", ["tensorboard", "mlflow", "wandb"])
def test_no_identity_knows_of_it(tracker):
    def identities(grid: Atlas) -> list[str]:
        cell = {"recipe": "topk", "layer": 0}
        return [
            grid.identity("train_sae", **cell, snapshot="3k"),
            grid.identity("release", recipe="topk"),
            grid.identity("page"),
        ]

    assert identities(atlas(**{"training.tracker": tracker})) == identities(atlas())


def test_another_word_is_refused():
    with pytest.raises(AtlasError, match=r"training.tracker: 'tensorbord' is not allowed; did you mean `tensorboard`"):
        atlas(**{"training.tracker": "tensorbord"})
