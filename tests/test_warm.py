"""Jobs that are forks of a process with the libraries (workflow/warm.py) are jobs as any others."""

import json
import os
import signal
import subprocess
import sys
from unittest import mock

import forks
import pytest

from workflow import ROOT, WARM

SNAKEFILE = """
rule all:
    input: "a.json", "b.json"

rule job:
    output: "{name}.json"
    script: "job.py"
"""
TELL = """
import json, os, sys
told = {"process": os.getpid(), "torch": "torch" in sys.modules, "name": snakemake.wildcards.name, "folder": os.getcwd()}
import torch
told["threads"] = [snakemake.threads, torch.get_num_threads()]
with open(snakemake.output[0], "w") as file:
    json.dump(told, file)
"""


def run(folder, script: str, *arguments: str, begins: str = "") -> subprocess.CompletedProcess:
    """Make the targets with jobs of the script, by a Snakefile that begins with `begins`."""
    (folder / "Snakefile").write_text(begins + SNAKEFILE)
    (folder / "job.py").write_text(script)
    where = ["--snakefile", folder / "Snakefile", "--directory", folder]
    profile = ["--workflow-profile", ROOT / "workflow" / "profiles" / "default"]
    command = [sys.executable, WARM, *where, *profile, "--cores", "2", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)


def test_a_job_is_a_process_of_its_own_that_has_the_libraries(tmp_path):
    done = run(tmp_path, TELL)
    assert done.returncode == 0, done.stdout
    one, other = (json.loads((tmp_path / f"{name}.json").read_text()) for name in "ab")
    assert one["torch"] and other["torch"]
    assert one["process"] != other["process"]
    assert one["threads"] == other["threads"] == [1, 1]
    assert (one["name"], one["folder"], other["name"]) == ("a", str(tmp_path), "b")


WHOSE = """
import json, sae_atlas
with open(snakemake.output[0], "w") as file:
    json.dump(sae_atlas.__file__, file)
"""


def test_a_job_imports_the_copy_of_the_library_that_its_workflow_names(tmp_path):
    copy = tmp_path / "copy" / "sae_atlas" / "__init__.py"
    copy.parent.mkdir(parents=True)
    copy.touch()
    for begins, file in (
        ("", ROOT / "sae_atlas" / "__init__.py"),
        (f"import os; os.environ['PYTHONPATH'] = {str(copy.parents[1])!r}", copy),
    ):
        done = run(tmp_path, WHOSE, "a.json", "--forceall", begins=begins)
        assert done.returncode == 0, done.stdout
        assert json.loads((tmp_path / "a.json").read_text()) == str(file)


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("raise SystemExit(75)", "75"),
        ("raise ValueError('out of range')", "ValueError: out of range"),
        (f"import os; os.kill(os.getpid(), {int(signal.SIGKILL)})", "SIGKILL"),
    ],
    ids=["exit code", "exception", "killed"],
)
def test_a_job_that_fails_fails_the_run(script, told, tmp_path):
    done = run(tmp_path, script, "a.json")
    assert done.returncode != 0
    assert told in done.stdout
    assert not (tmp_path / "a.json").exists()


@pytest.mark.parametrize(("asked", "program"), [([], "/python workflow/warm.py "), (["WARM="], "/snakemake ")])
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere jobs are interpreters")
def test_make_runs_jobs_as_forks_unless_told_otherwise(asked, program):
    command = ["make", "--dry-run", "-o", ".venv/ready", "run", *asked]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert f"{program}--snakefile Snakefile " in shown


KILLED = """
import os, signal
from sae_atlas.io.forks import fork_server

def killed():
    os.kill(os.getppid(), signal.SIGKILL)  # what waits for this one, to answer
    os._exit(0)

print(fork_server(killed)())
"""


def test_a_call_whose_answer_is_lost_ends_all_the_same():
    done = subprocess.run([sys.executable, "-c", KILLED], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == str(-int(signal.SIGKILL)), done.stderr


CACHES = """
import os
from sae_atlas.io.caches import keep_caches_elsewhere
from sae_atlas.io.forks import fork_server, to_its_end

keep_caches_elsewhere()
folder = os.environ["XDG_CACHE_HOME"]
call = fork_server(lambda: to_its_end(lambda: None))
print(folder != "relative", call(), os.path.isdir(folder))
"""


def test_the_first_job_that_ends_leaves_the_others_their_caches(tmp_path):
    """Of a user whose HOME cannot be written."""
    done = subprocess.run(
        [sys.executable, "-c", CACHES], cwd=ROOT, env=os.environ | {"XDG_CACHE_HOME": "relative"},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.split() == ["True", "0", "True"], done.stderr


UNPREPARED = """
import os
from sae_atlas.io.forks import fork_server

print(fork_server(lambda: os._exit(3), lambda: 1 / 0)())
"""


def test_a_server_that_cannot_import_what_it_should_says_so_and_its_calls_end_as_they_do():
    done = subprocess.run([sys.executable, "-c", UNPREPARED], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "3" and "ZeroDivisionError" in done.stderr


def test_a_program_of_a_test_is_a_fork_whatever_a_job_or_scikit_learn_set_in_this_process(tmp_path):
    """An interpreter takes longer to start than most of what the tests run; for an environment of its own it is one."""
    program = tmp_path / "program.py"
    program.write_text("import sys; print('torch' in sys.modules)")
    with mock.patch.dict(os.environ, forks.BEGAN_WITH | dict.fromkeys(forks.SET_BY_TESTS, "1"), clear=True):
        assert forks.run(program).stdout == "True\n"
        assert forks.run(program, env=os.environ | {"OMP_WAIT_POLICY": "ACTIVE"}).stdout == "False\n"
