"""The table of `make plan` in a terminal of 80 columns: every name and number is whole."""

import io

import pytest
from rich.console import Console
from test_plan_work import MACHINE

from sae_atlas.config.read import read_config
from sae_atlas.io.sizes import format_rounded
from sae_atlas.plan.costs import benchmark
from sae_atlas.plan.jobs import jobs
from sae_atlas.plan.shape import Shape
from sae_atlas.plan.show import plan_table
from sae_atlas.plan.work import count
from sae_atlas.stages.atlas import Atlas
from workflow import ROOT

SHAPES = {
    "config": Shape(30, 576, 49152, 3_539_520, 134_515_008, 4),
    "pythia-410m": Shape(24, 1024, 50304, 12_582_912, 405_334_016, 2),
}
SIZES, TIMES = ["FLOPs", "written"], ["here", "H200"]  # the second line of their heads


def lines(atlas: Atlas, folder, width: int, shape=None) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(plan_table(atlas, shape, MACHINE if shape else None, folder, "H200", width))
    return console.file.getvalue().splitlines()


def table(text: list[str]) -> list:
    """The words of every line of the heads, then the other lines."""
    first = next(number for number, line in enumerate(text) if line.startswith("rule "))
    return [*(line.split() for line in text[: first + 1]), text[first + 1 :]]


def read(name: str) -> Atlas:
    return Atlas(read_config(ROOT / "config" / f"{name}.yaml"))


@pytest.mark.parametrize("known", [True, False], ids=["sizes known", "sizes unknown"])
@pytest.mark.parametrize("name", SHAPES)
def test_before_a_run_all_columns_that_have_room_are_whole(tmp_path, name, known):
    atlas, shape = read(name), SHAPES[name] if known else None
    *above, head, rows = table(lines(atlas, tmp_path, 80, shape))
    left_out = (
        ["FLOPs"] if known and name == "pythia-410m" else []
    )  # its rule of the longest name, and days of four digits
    assert head == [
        "rule",
        "jobs",
        "tokens",
        *([each for each in SIZES + TIMES if each not in left_out] if known else []),
    ]
    assert above == ([["time", "on"]] if known else [])
    rows, note = rows[: len(count(atlas, shape))], rows[len(count(atlas, shape)) :]
    assert [each in " ".join(note) for each in left_out] == [True] * len(left_out) and len(note) == len(left_out)
    for row, work in zip(rows, count(atlas, shape), strict=True):
        rule, number, *others = row.split()
        assert (rule, number) == (work.rule, f"{work.jobs:,}")
        assert not work.tokens or others[0] == format_rounded(work.tokens)
    assert "…" not in "".join(rows)


@pytest.mark.parametrize("name", SHAPES)
def test_after_a_run_the_least_important_columns_are_left_out_and_named(tmp_path, name):
    atlas = read(name)
    for rule, names in jobs(atlas).items():
        for job in names[: len(names) // 2 + 1]:
            file = tmp_path / "results" / "benchmarks" / benchmark(rule, job)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("s\tcpu_time\tmax_rss\n12345.6\t1\t1\n")
    above, head, rows = table(lines(atlas, tmp_path, 80, SHAPES[name]))
    rows, note = (
        rows[: len(count(atlas, SHAPES[name]))],
        " ".join(" ".join(rows[len(count(atlas, SHAPES[name])) :]).split()),
    )
    assert above == ["time", "on", "here", "/"]
    assert head == ["rule", "jobs", *TIMES, "took", "took"]
    left_out = "FLOPs, written, tokens"
    assert note == f"No room in 80 columns for: {left_out}. A wider terminal, or COLUMNS=120, shows them."
    assert [row.split()[0] for row in rows] == [work.rule for work in count(atlas, SHAPES[name])]
    training = next(row for row in rows if row.startswith("train_sae"))
    assert f" {len(jobs(atlas)['train_sae']) // 2 + 1} of " in training
    wide = lines(atlas, tmp_path, 120, SHAPES[name])
    assert table(wide)[1] == ["rule", "jobs", "tokens", *SIZES, *TIMES, "took", "took"]
    assert not wide[-1].startswith("No room")


def test_a_narrow_terminal_folds_names_and_keeps_numbers(tmp_path):
    text = "\n".join(lines(read("pythia-410m"), tmp_path, 40, SHAPES["pythia-410m"]))
    assert "…" not in text and "432" in text
