"""A real SLURM of one node on loopback, for tests: controller, node and fake GPUs, nothing left behind."""

import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CPUS, GPUS = 4, 2  # pretended: nodes with fewer cores than a rule asks for at most
# No munge, no accounting database, no cgroups: what this machine needs not have. Memory is watched by sampling.
CONFIG = """\
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={node_port}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/completed.log
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0
SlurmdParameters=config_overrides
ReturnToService=2
EnforcePartLimits=ALL
MinJobAge=86400
KillWait=20
GresTypes=gpu
NodeName=node0 NodeHostname=localhost NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=64000 Gres=gpu:{gpus} State=UNKNOWN
PartitionName=cpu Nodes=node0 Default=YES DefMemPerCPU=64 MaxTime=600 State=UP
PartitionName=gpu Nodes=node0 DefMemPerCPU=64 MaxTime=600 State=UP
"""
FOUND = Path("/run/slurm/conf")  # where SLURM's commands look; SLURM_CONF is not passed on to job steps
OWN = Path("/etc/slurm/slurm.conf")  # and where they look first


def skip_where_it_cannot_run() -> None:
    if os.geteuid():
        pytest.skip("SLURM's daemons need root")
    if not all(map(shutil.which, ("slurmctld", "slurmd", "sbatch"))):
        pytest.skip("no SLURM here: `make slurm` installs it as root on Debian")
    if OWN.exists():
        pytest.skip(f"this machine has a SLURM of its own ({OWN}), which would be used in place of the test's")


class Cluster:
    """The daemons, their files, and questions to them."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name in ("state", "spool"):
            (folder / name).mkdir(parents=True)
        for number in range(GPUS):
            (folder / f"gpu{number}").symlink_to("/dev/null")
        (folder / "gres.conf").write_text(f"NodeName=node0 Name=gpu File={folder}/gpu[0-{GPUS - 1}]\n")
        port, node_port = _free_ports()
        self.config = folder / "slurm.conf"
        self.config.write_text(CONFIG.format(folder=folder, port=port, node_port=node_port, cpus=CPUS, gpus=GPUS))
        self.controller = self.node = None

    def start(self) -> None:
        self.controller = self._daemon("slurmctld", "-c")
        self.node = self._daemon("slurmd", "-N", "node0")
        self._wait_until_up()

    def restart_controller(self) -> None:
        self.controller.send_signal(signal.SIGTERM)
        self.controller.wait(20)
        self.controller = self._daemon("slurmctld")
        self._wait_until_up()

    def stop(self) -> None:
        try:
            if ask("scontrol", "ping"):
                subprocess.run(["scancel", "--user=root"], timeout=20, capture_output=True)
                wait_for(lambda: not ask("squeue", "-h"), "jobs to end", 40)
        finally:
            for daemon in filter(None, (self.controller, self.node)):
                daemon.send_signal(signal.SIGTERM)
                daemon.wait(20)

    def completed(self) -> list[str]:
        """State of every job that ended, from the completion log."""
        log = self.folder / "completed.log"
        return re.findall(r"JobState=(\w+)", log.read_text()) if log.exists() else []

    def submitted(self) -> int:
        return (self.folder / "slurmctld.log").read_text().count("_slurm_rpc_submit_batch_job")

    def _daemon(self, program: str, *options: str) -> subprocess.Popen:
        # -D keeps it our child; a session of its own keeps a Ctrl-C from it, so that its jobs can be cancelled first.
        with (self.folder / f"{program}.err").open("a") as errors:
            return subprocess.Popen([program, "-D", *options, "-f", self.config], stderr=errors, start_new_session=True)

    def _wait_until_up(self) -> None:
        up = ("idle", "mixed", "allocated")
        wait_for(lambda: ask("sinfo", "-h", "-N", "-p", "cpu", "-o", "%T") in up, f"SLURM in {self.folder}", 30)


@contextmanager
def one_node(folder: Path) -> Iterator[Cluster]:
    """A cluster while the context lasts; one at a time on a machine."""
    FOUND.parent.mkdir(exist_ok=True)
    with (FOUND.parent / "test.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        cluster = Cluster(folder)
        FOUND.unlink(missing_ok=True)
        FOUND.symlink_to(folder)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()
            FOUND.unlink()


def ask(*command: str) -> str:
    """What a command of SLURM prints; nothing if the controller is away."""
    return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()


def wait_for(true, what: str, seconds: float = 120):
    """The first true value of `true()`."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if value := true():
            return value
        time.sleep(0.1)
    raise AssertionError(f"waited {seconds} s for {what}")


def _free_ports() -> tuple[int, int]:
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]
