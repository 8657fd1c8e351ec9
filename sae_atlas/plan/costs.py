"""What every rule cost: sums over the benchmark files that jobs leave beside the results."""

import csv
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cost:
    """One rule. Seconds are summed over its jobs, memory is that of the largest."""

    rule: str
    jobs: int  # of the atlas
    measured: int  # of them, how many have a benchmark file
    wall: float  # s
    longest: float  # s
    cpu: float  # s, of all threads
    memory: float  # MB, resident


def read_costs(folder: str | Path, jobs: dict[str, list[str]]) -> list[Cost]:
    """Cost of every rule in `jobs` (plan.jobs.jobs) from the files in `folder`; of a job run again, its last run.

    Files of jobs that are not of this atlas any more do not count.
    """
    return [_cost(rule, [Path(folder) / benchmark(rule, name) for name in names]) for rule, names in jobs.items()]


def benchmark(rule: str, job: str) -> str:
    """File of a job under results/benchmarks."""
    return f"{rule}/{job}.tsv" if job else f"{rule}.tsv"


def _cost(rule: str, files: list[Path]) -> Cost:
    rows = [row for file in files if file.is_file() for row in _rows(file)]
    wall, cpu, memory = ([_number(row.get(key)) for row in rows] for key in ("s", "cpu_time", "max_rss"))
    return Cost(rule, len(files), len(rows), sum(wall), max(wall, default=0.0), sum(cpu), max(memory, default=0.0))


def _rows(file: Path) -> list[dict]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines, delimiter="\t"))[-1:]


def _number(text: str | None) -> float:
    """NA, or - in older files, stands for what is not known."""
    try:
        return float(text or 0)
    except ValueError:
        return 0.0
