"""What a run shows: in a terminal a bar per rule and the failed job's own error line, whole; plain lines anywhere else."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from workflow import ROOT

ERROR = (
    "results/stores/layer07/50M.zarr: chunk 12 of [rows, d_in] fails its checksum (crc32c), which is longer than a terminal "
    "is wide. Delete the store and rerun; it will be rebuilt, to the very last word"
)
SNAKEFILE = """
rule all:
    input: "a.txt", "b.txt", "bad.txt"

rule good_rule:
    output: "{name}.txt"
    wildcard_constraints: name="a|b"
    shell: "echo {wildcards.name} > {output}"

rule bad_rule:
    output: "bad.txt"
    log: "bad.log"
    script: "bad.py"
"""
SCRIPT = f"""
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.log import job_log

with job_log(snakemake.log[0]):
    raise AtlasError({ERROR!r})
"""
ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07)")


@pytest.fixture
def command(tmp_path):
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    (tmp_path / "bad.py").write_text(SCRIPT)
    where = ["--snakefile", str(tmp_path / "Snakefile"), "--directory", str(tmp_path)]
    profile = ["--workflow-profile", str(ROOT / "workflow" / "profiles" / "default")]
    return [sys.executable, "-m", "snakemake", *where, *profile, "--cores", "1"]


def in_terminal(command: list[str], **environment: str) -> str:
    """All that a command writes to a terminal of 80 columns."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    without_ci = {name: value for name, value in os.environ.items() if name not in ("CI", "COLUMNS", "NO_COLOR")}
    variables = without_ci | {"TERM": "xterm-256color", "PYTHONPATH": str(ROOT)} | environment
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, cwd=ROOT, env=variables)
    os.close(slave)
    written = b""
    try:
        while part := os.read(master, 65536):
            written += part
    except OSError:  # its last process has ended
        pass
    process.wait()
    os.close(master)
    return written.decode()


def words(text: str) -> str:
    """The text without colours and breaks of lines."""
    return " ".join(ESCAPES.sub("", text).split())


def test_a_terminal_shows_a_bar_per_rule_and_the_failed_jobs_own_line(command):
    shown = words(in_terminal([*command, "--logger", "rich"]))
    for rule in ("good rule", "bad rule", "Total Progress"):
        assert re.search(rf"{rule} \S*━+\S* +\d+%", shown)
    assert f"error: {ERROR}" in shown
    assert "Traceback" not in shown


def test_what_is_piped_is_plain(command):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    assert "\x1b" not in done.stdout and "━" not in done.stdout
    assert f"error: {ERROR}" in done.stdout.splitlines()


@pytest.mark.parametrize("target", ["run", "lifecycle"])
def test_make_asks_for_bars_in_a_terminal_alone(target, tmp_path):
    command = ["make", "--no-print-directory", "--dry-run", target]
    snakemake = re.compile(r"/(snakemake|python workflow/warm.py) --snakefile .*")
    assert snakemake.search(in_terminal(command))[0].rstrip().endswith("--logger rich")
    assert "--logger" not in snakemake.search(in_terminal(command, CI="true"))[0]
    for redirected in ("> {file}", "2> {file}", "| cat > {file}"):
        file = tmp_path / "shown"
        shown = in_terminal(["sh", "-c", f"{' '.join(command)} {redirected.format(file=file)}"])
        assert "--logger" not in snakemake.search(shown + file.read_text())[0]
