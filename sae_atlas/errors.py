"""Errors a user can mend: one line that names the key or file and the remedy."""


class AtlasError(Exception):
    """What is wrong, where, and what to do about it, in one line.

    Raised for everything a user can cause or cure (config, files, disk, network). Jobs print it without
    a traceback; any other exception is a defect of ours and keeps its traceback.
    """


def reason(error: BaseException) -> str:
    """Type and first line of another library's error, to be quoted in one of ours."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
