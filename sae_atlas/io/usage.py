"""What a job took, told by its own process when it ends: a line under Snakemake's names for its benchmark files.

Snakemake itself looks at a job twice a second, for which the kernel walks through all of the job's memory: a tenth of all
processor time of a run, for numbers that are too low for jobs of a few seconds.
"""

import os
import resource
import time
from pathlib import Path

PROCESS = Path("/proc/self/status")  # on Linux


def process_start() -> float:
    """When this process began, as time.perf_counter() counts: its work so far was to import, which waits for little."""
    return time.perf_counter() - time.process_time()


def write_usage(path: str | Path, start: float) -> None:
    """Write what this process and those that it waited for took since `start` (`process_start`): s, MB, CPU in s."""
    taken = {
        "s": f"{time.perf_counter() - start:.4f}",
        "max_rss": f"{_largest_memory():.2f}",
        "cpu_time": f"{sum(os.times()[:4]):.2f}",
    }
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("\t".join(taken) + "\n" + "\t".join(taken.values()) + "\n", encoding="utf-8")


def _largest_memory() -> float:
    """Resident, in MB. What getrusage tells on Linux is never less than what the process that started this one had."""
    if not PROCESS.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    lines = dict(line.split(":", 1) for line in PROCESS.read_text(encoding="utf-8").splitlines())
    return int(lines["VmHWM"].split()[0]) / 2**10
