"""Questions that take the import of torch and transformers: asked of a process of its own, for what reads a config stays small.

Answers are kept in the user's cache folder.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import sae_atlas
from sae_atlas.io.files import write_json
from sae_atlas.io.provenance import code_identity

PATIENCE = 120  # s


class Unanswered(Exception):
    """A question failed, or took longer than a start can wait; which."""


def ask(module: str, question: object, depends_on: Callable[[], object], rooms: tuple[str, ...]) -> object:
    """What `python -m MODULE` prints as JSON when it reads the question as JSON. Raises Unanswered.

    depends_on: gives what else the answer depends on, beside the release of transformers and the code in `rooms` of sae_atlas.
    It is called again once there is an answer, which may have fetched something.
    """

    def cache_file() -> Path:
        key = json.dumps([module, question, depends_on(), version("transformers"), code_identity(*rooms)])
        cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "sae-atlas"
        return cache / f"{hashlib.sha256(key.encode()).hexdigest()}.json"

    try:
        return json.loads(cache_file().read_text(encoding="utf-8"))["answer"]
    except (OSError, ValueError, LookupError, TypeError):
        pass
    ours = [str(Path(sae_atlas.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    settings = {"encoding": "utf-8", "env": os.environ | {"PYTHONPATH": os.pathsep.join(ours)}, "timeout": PATIENCE}
    asked = [sys.executable, "-P", "-m", module]
    try:
        done = subprocess.run(asked, input=json.dumps(question), capture_output=True, check=True, **settings)
    except subprocess.TimeoutExpired as error:
        raise Unanswered(f"that takes more than {PATIENCE} s here") from error
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines()
        raise Unanswered(lines[-1][:200] if lines else f"it ended with {error.returncode}") from error
    answer = json.loads(done.stdout)
    with suppress(OSError):  # a home that cannot be written: it is asked again the next time
        file = cache_file()
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"answer": answer})
    return answer
