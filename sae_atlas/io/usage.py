"""What a job took, told by its own process when it ends: a line in the columns of Snakemake's benchmark files.

Snakemake itself looks at a job twice a second, for which the kernel walks through all of the job's memory: a tenth of all
processor time of a run, for numbers that are too low for jobs of a few seconds.
"""

import os
import resource
import time
from datetime import timedelta
from pathlib import Path

COLUMNS = "s", "h:m:s", "max_rss", "max_vms", "max_uss", "max_pss", "io_in", "io_out", "mean_load", "cpu_time"
PROCESS = Path("/proc/self/status")  # on Linux
NOT_KNOWN = "NA"


def process_start() -> float:
    """When this process began, as time.perf_counter() counts: its work so far was to import, which waits for little."""
    return time.perf_counter() - time.process_time()


def write_usage(path: str | Path, start: float) -> None:
    """Write what this process and those that it waited for took since `start` (`process_start`): s, MB, CPU in s."""
    seconds, processor = time.perf_counter() - start, sum(os.times()[:4])
    known = {
        "s": f"{seconds:.4f}",
        "h:m:s": str(timedelta(seconds=int(seconds))),
        "max_rss": f"{_largest_memory():.2f}",
        "mean_load": f"{100 * processor / seconds:.2f}",
        "cpu_time": f"{processor:.2f}",
    }
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    lines = ["\t".join(COLUMNS), "\t".join(known.get(column, NOT_KNOWN) for column in COLUMNS)]
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _largest_memory() -> float:
    """Resident, in MB. What getrusage tells on Linux is never less than what the process that started this one had."""
    if not PROCESS.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    lines = dict(line.split(":", 1) for line in PROCESS.read_text(encoding="utf-8").splitlines())
    return int(lines["VmHWM"].split()[0]) / 2**10
