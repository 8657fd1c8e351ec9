"""Students: their sizes, a loss that is 0 for the teacher itself and falls in training, the same bits after an interruption."""

import os
import signal

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoConfig

from models import SIZES, random_model
from sae_atlas.base_models.prepare import prepare
from sae_atlas.corpus import tokenize
from sae_atlas.floors import distill as distilling
from sae_atlas.floors.distill import distill, rate_at, with_floors
from sae_atlas.floors.student import Teacher, make_student, student_config
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.provenance import make_record, recording
from sae_atlas.io.tables import read_table

RECORD = make_record("distill", {}, "", {})


@pytest.mark.parametrize("architecture", SIZES)
def test_a_student_with_the_teachers_weights_loses_nothing(architecture):
    model = random_model(architecture).float()
    student = make_student(model.config, 32, seed=1)
    tokens = torch.arange(20).reshape(2, 10)
    teacher = Teacher(model(tokens).logits, 2.0)
    assert teacher.divergence(student(tokens).logits).mean() > 1e-4
    student.load_state_dict(model.state_dict())
    assert teacher.divergence(student(tokens).logits).abs().max() < 1e-5


@pytest.mark.parametrize("architecture", SIZES)
def test_narrower_students_of_every_family_run(architecture):
    config = random_model(architecture).config
    for width in (8, 16, 24):
        student = make_student(config, width, seed=0)
        assert student.config.hidden_size == width
        assert student(torch.arange(10)[None]).logits.shape == (1, 10, 64)
        assert sum(each.numel() for each in student.parameters()) < random_model(architecture).num_parameters()


def test_sizes_of_a_student_of_smollm2():
    sizes = {"hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 1536}
    base = AutoConfig.for_model("llama", num_hidden_layers=30, **sizes)
    same = student_config(base, 576)
    assert same.to_dict() == base.to_dict()
    small = student_config(base, 64)
    found = (small.num_attention_heads, small.num_key_value_heads, small.head_dim, small.intermediate_size)
    assert found == (4, 1, 16, 170) and small.num_hidden_layers == 30
    assert base.hidden_size == 576  # it was copied


def test_divergence_by_hand():
    teacher = Teacher(torch.tensor([[0.0, np.log(3)]]), 1.0)  # 1/4, 3/4
    expected = 0.25 * np.log(0.25 / 0.5) + 0.75 * np.log(0.75 / 0.5)
    assert teacher.divergence(torch.zeros(1, 2)).item() == pytest.approx(expected, rel=1e-5)
    warm = Teacher(torch.tensor([[0.0, 2 * np.log(3)]]), 2.0)  # the same at temperature 2, times its square
    assert warm.divergence(torch.zeros(1, 2)).item() == pytest.approx(4 * expected, rel=1e-5)


def test_the_learning_rate_rises_and_falls_to_nothing():
    rates = [rate_at(step, 100, 1.0) for step in range(100)]
    assert rates[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert rates[10] == 1 and rates[55] == pytest.approx(0.5) and 0 < rates[99] < 1e-3
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_the_floor_is_the_mean_of_the_last_tenth():
    held_out = [*range(40, 20, -1)]  # 20 evaluations: the last two are 22 and 21, the two before 24 and 23
    rows = pd.DataFrame({"width": 8, "seed": 0, "step": range(20), "held_out": held_out})
    other = rows.assign(seed=1, held_out=5.0)
    found = with_floors(pd.concat([rows, other], ignore_index=True)).groupby("seed").first()
    assert found.floor.tolist() == [21.5, 5.0]
    assert found.falling.tolist() == [pytest.approx(2 / 23.5), 0]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A random Llama whose predictions differ from token to token, and text for it."""
    folder = tmp_path_factory.mktemp("distill")
    sizes = SIZES["llama"] | {"initializer_range": 0.4}
    model = {"source": "random", "architecture": "llama", "sizes": sizes, "seed": 0, "tokenizer": "bytes"}
    prepare(folder / "provenance.json", **model)
    text = folder / "text.txt"
    text.write_text("\n\n".join(f"Document {number} says {number * 37}." for number in range(800)))
    source = {"source": "local", "path": str(text)}
    tokenize(folder / "provenance.json", folder / "corpus.zarr", source, 16, 9000, 900, 0)
    return folder


def train(place, table, **changes) -> pd.DataFrame:
    settings = {"widths": [8, 16], "seeds": 2, "steps": 40, "batch": 8, "learning_rate": 1e-2, "temperature": 2.0}
    settings |= {"evaluations": 10, "held_out_tokens": 400, "model_dtype": "float32", "threads": 1} | changes
    with recording(RECORD):
        distill(place / "provenance.json", place / "corpus.zarr", table, **settings)
    return read_table(table)


def test_the_loss_falls_and_wider_students_lose_less(place, tmp_path):
    table = train(place, tmp_path / "students.parquet")
    assert table.groupby(["width", "seed"]).size().eq(10).all() and len(table) == 40
    first, last = (table[table.step == step].set_index(["width", "seed"]).held_out for step in (4, 40))
    assert (last < 0.9 * first).all()
    floors = table.groupby("width").floor.mean()
    assert floors[16] < floors[8]
    assert table.floor.nunique() == 4  # seeds differ
    assert table.groupby("step").tokens.first().is_monotonic_increasing


def test_threads_share_the_students_and_change_no_bit(place, tmp_path):
    for threads in (1, 2):
        train(place, tmp_path / f"{threads}.parquet", steps=6, evaluations=2, threads=threads)
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()


def test_told_to_stop_it_goes_on_to_the_same_bits(place, tmp_path, monkeypatch):
    train(place, tmp_path / "whole.parquet", steps=12, seeds=1)
    stepped = distilling._step

    def told(model, source, students, step, *rest):
        stepped(model, source, students, step, *rest)
        if step == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(distilling, "_step", told)
    with pytest.raises(SystemExit):
        train(place, tmp_path / "stopped.parquet", steps=12, seeds=1)
    assert not (tmp_path / "stopped.parquet").exists()
    done = []
    monkeypatch.setattr(distilling, "_step", lambda *given: (done.append(given[3]), stepped(*given)))
    train(place, tmp_path / "stopped.parquet", steps=12, seeds=1)
    assert done == list(range(8, 12))
    assert (tmp_path / "stopped.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_a_corpus_too_short_for_the_steps_is_one_line(place, tmp_path):
    with pytest.raises(
        AtlasError, match=r"floors\.students: 1000 steps of 8 contexts, the corpus has \d+ train contexts"
    ):
        train(place, tmp_path / "no.parquet", steps=1000)


def test_the_generator_outside_is_left_alone():
    config = random_model("gpt2").config
    state = torch.get_rng_state()
    first, again = (make_student(config, 8, seed=3).state_dict() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
