"""Work is shared over threads: every part once, results in order, errors where the caller sees them."""

import os
import threading
import time
from collections import Counter

import pytest
import yaml

from sae_atlas.kernels.threads import run, use_threads
from workflow import command, small
from workflow import run as run_snakemake


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    use_threads(request.param)
    yield request.param
    use_threads(1)


def test_every_part_is_done_once_and_results_are_in_order(threads):
    done, lock = Counter(), threading.Lock()

    def work(part):
        with lock:
            done[part] += 1
        return 2 * part

    assert run(work, range(500)) == list(range(0, 1000, 2))
    assert done == Counter(range(500))
    assert run(work, []) == []


def test_threads_work_at_the_same_time(threads):
    together = threading.Barrier(threads, timeout=30)
    assert sorted(run(lambda part: together.wait(), range(threads))) == list(range(threads))


def test_an_error_in_any_part_is_the_callers(threads):
    def work(part):
        if part == wrong:
            raise ValueError(f"part {part}")

    for wrong in (0, 1, 63):
        with pytest.raises(ValueError, match=f"part {wrong}"):
            run(work, range(64))


@pytest.mark.parametrize("by_caller", [True, False])
def test_after_an_error_no_further_part_is_begun(threads, by_caller):
    if threads == 1 and not by_caller:
        pytest.skip("there is no other thread")
    caller, begun = threading.current_thread(), []

    def work(part):
        begun.append(part)
        while len(begun) < threads:  # until all are at work
            time.sleep(0.001)
        if (threading.current_thread() is caller) == by_caller:
            raise ValueError("stop")
        time.sleep(0.01)

    with pytest.raises(ValueError, match="stop"):
        run(work, range(1000))
    assert len(begun) < 1000


def test_threads_of_a_job_do_not_spin_while_they_wait(tmp_path):
    shown = os.environ | {"OMP_DISPLAY_ENV": "TRUE"}  # to stderr, when a job's torch is loaded
    shown.pop("OMP_WAIT_POLICY", None)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(small()))
    asked = command(tmp_path, tmp_path / "config.yaml", "results/base_model/provenance.json")[1:]
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in run_snakemake(*asked, env=shown).stdout
    assert "OMP_WAIT_POLICY = 'ACTIVE'" in run_snakemake(*asked, "-F", env=shown | {"OMP_WAIT_POLICY": "ACTIVE"}).stdout
