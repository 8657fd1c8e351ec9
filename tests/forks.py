"""Programs in forks of a Python that has imported what they import.

A dry run of Snakemake plans for half a second and imports for two; a job of a toy atlas computes for a tenth of a second and
imports for three. What runs is the program itself, with its own arguments, folder, environment and output. What a library reads
from the environment while it is imported is what it was when the Python began: tests of that, and of processes that are killed,
start an interpreter.
"""

import atexit
import gc
import json
import os
import runpy
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from functools import cached_property
from importlib import import_module
from pathlib import Path


class Forks:
    """A Python with these modules, started when first used; it ends with the process that started it."""

    def __init__(self, *modules: str):
        self.modules = modules

    @cached_property
    def address(self) -> str:
        """Of its socket."""
        address = f"{tempfile.mkdtemp()}/socket"
        own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        own |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, "-P", __file__, address, *self.modules]
        self.process = subprocess.Popen(command, env=own, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdout.readline() == b"ready\n"
        return address

    def run(self, *program: str, cwd: Path | None = None, env: dict | None = None) -> subprocess.CompletedProcess:
        """As subprocess.run([python, *program]) would, stdout and stderr together as text."""
        with tempfile.TemporaryFile() as output:
            code = fork(self.address, program, 3 * [output.fileno()], cwd, env)
            output.seek(0)
            return subprocess.CompletedProcess(program, code, output.read().decode(errors="replace"))


def fork(address: str, program: tuple, descriptors: list[int], cwd=None, env=None) -> int:
    """Run a program (a path, or -m and a module, and its arguments) there; its exit code.

    descriptors: its standard input, output and errors.
    """
    request = {"program": list(map(str, program)), "cwd": str(cwd or Path.cwd()), "env": dict(env or os.environ)}
    with socket.socket(socket.AF_UNIX) as there:
        there.connect(address)
        socket.send_fds(there, [b" "], descriptors)
        there.sendall(f"{json.dumps(request)}\n".encode())
        with there.makefile() as answers:
            return int(answers.readline())


def serve(address: str) -> dict:
    """Answer until whoever started this ends. Returns in the fork that is to run what was asked for."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        print("ready", flush=True)
        while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            if os.fork() == 0:
                return attend(connection)
            connection.close()
            while _ended():
                pass
    shutil.rmtree(Path(address).parent)
    os._exit(0)


def attend(connection: socket.socket) -> dict:
    """Tell the exit code of the process that runs the program. Returns in that process."""
    _, descriptors, _, _ = socket.recv_fds(connection, 1, 3)
    request = json.loads(connection.makefile().readline())
    if child := os.fork():
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        connection.sendall(f"{code}\n".encode())
        os._exit(0)
    connection.close()
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    return request


def _ended() -> int:
    """The number of a child that ended since; 0 if there is none."""
    try:
        return os.waitpid(-1, os.WNOHANG)[0]
    except ChildProcessError:
        return 0


def run(program: list[str], cwd: str, env: dict) -> None:
    """As the interpreter itself would begin with it."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    is_module = program[0] == "-m"
    sys.argv = program[is_module:]
    first = cwd if is_module else str(Path(program[0]).parent)
    sys.path[:0] = [first, *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    if is_module:
        runpy.run_module(program[1], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(program[0], run_name="__main__")


def end(code: object) -> None:
    """As the interpreter would, without taking apart what was imported: that copies all of its memory, for seconds."""
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    for module in sys.argv[2:]:
        import_module(module)
    gc.freeze()  # a collection in a fork would copy it, too
    asked = serve(sys.argv[1])
    try:
        run(**asked)
    except SystemExit as error:
        end(error.code)
    except BaseException:
        traceback.print_exc()
        end(1)
    end(0)
