"""Processes that are forks of one that has imported what they need: multiprocessing's fork server."""

import atexit
import multiprocessing
import os
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import wait

FORKS = multiprocessing.get_context("forkserver")
ONE_AT_A_TIME = threading.Lock()


def call(function: Callable, *arguments) -> int:
    """The exit code of a process that calls it. Any thread may ask: to start a process looks at the ends of all others."""
    process = FORKS.Process(target=function, args=arguments)
    with ONE_AT_A_TIME:
        process.start()
    wait([process.sentinel])
    with ONE_AT_A_TIME:
        process.join()
    return process.exitcode


def to_its_end(program: Callable[[], object]) -> None:
    """Run it and end the process as an interpreter would, but for taking apart what was imported: that takes seconds.

    The program imports this library from its own path: a copy of the workflow has its own.
    """
    for name in [each for each in sys.modules if each.partition(".")[0] == "sae_atlas"]:
        del sys.modules[name]
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
