"""Processes that are forks of this one as it was: what it had imported, they have."""

import atexit
import multiprocessing
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from importlib.machinery import PathFinder
from multiprocessing.connection import Connection
from typing import NoReturn

import sae_atlas


def fork_server(function: Callable[..., NoReturn], prepare: Callable[[], object] | None = None) -> Callable[..., int]:
    """Fork a server, now; what is returned calls `function` in a fork of that server, and returns its exit code.

    prepare: what the server does first, while this process goes on; calls wait for it.

    To be called before this process has threads, whose locks a fork would find held; any thread may then ask the server.
    Every call has the folder and the environment that this process has at the time. The server ends with this process.
    multiprocessing's own server is a new interpreter, which has to import everything again.
    """
    asking, asked = socket.socketpair()
    server = os.fork()
    if server == 0:
        asking.close()
        _serve(asked, function, prepare)
    asked.close()
    atexit.register(os.kill, server, signal.SIGTERM)  # it may not have seen yet that this process is gone

    def call(*arguments: object) -> int:
        ours, theirs = multiprocessing.Pipe()
        with ours:
            try:
                with theirs:  # the server has a copy; were this one left open, the end of the other would not be seen
                    socket.send_fds(asking, [b"."], [theirs.fileno()])
                ours.send((os.getcwd(), dict(os.environ), arguments))
                return ours.recv()
            except (EOFError, ConnectionError):  # it was killed
                return -signal.SIGKILL

    return call


def _serve(asked: socket.socket, function: Callable[..., NoReturn], prepare: Callable[[], object] | None) -> NoReturn:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if prepare:
        try:
            prepare()
        except Exception:  # what is missing, the calls themselves tell
            traceback.print_exc()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        _, descriptors, *_ = socket.recv_fds(asked, 1, 1)
        if not descriptors:  # the other side is gone
            os._exit(0)
        if os.fork() == 0:
            _answer(Connection(descriptors[0]), function)
        os.close(descriptors[0])


def _answer(connection: Connection, function: Callable[..., NoReturn]) -> NoReturn:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # its end is waited for
    folder, variables, arguments = connection.recv()
    job = os.fork()
    if job == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        connection.close()
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(variables)
        sys.path[:0] = filter(None, variables.get("PYTHONPATH", "").split(os.pathsep))  # as an interpreter would
        function(*arguments)
    connection.send(os.waitstatus_to_exitcode(os.waitpid(job, 0)[1]))
    os._exit(0)


def to_its_end(program: Callable[[], object]) -> NoReturn:
    """Run it and end the process as an interpreter would, but for taking apart what was imported: that takes seconds.

    A program whose path has another copy of this library, as that of a copy of the workflow, imports that one.
    """
    on_path = PathFinder.find_spec("sae_atlas")
    if on_path and on_path.origin != sae_atlas.__file__:
        forget_library()
    code: object = 1
    try:
        program()
        code = 0
    except SystemExit as error:
        code = error.code or 0
    except BaseException:
        traceback.print_exc()
    if not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def forget_library() -> None:
    """Take this library out of what is imported; whoever imports it again gets the copy that the path names then."""
    for name in [each for each in sys.modules if each.partition(".")[0] == "sae_atlas"]:
        del sys.modules[name]
