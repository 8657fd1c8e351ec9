"""What an error of the hub's client means and what mends it, and snapshots in its cache for where there is no internet."""

from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from sae_atlas.io.errors import AtlasError, reason
from sae_atlas.io.locks import do_without_locks
from sae_atlas.io.log import DISK_ERRORS, logger

do_without_locks()

LOG_IN = "`hf auth login`, or set HF_TOKEN"
FOLDERS = {"model": "", "dataset": "datasets/"}  # of a repository's page on the hub


def refuse(
    error: Exception,
    key: str,
    repository: str,
    revision: str | None,
    what: str = "",
    kind: str = "model",
    also: str = "",
) -> NoReturn:
    """Raise an AtlasError, one line, for `error` of the hub's client or of `datasets`; an error of the disk as it is.

    key: what of the config names the repository. what: the file of it that was asked for, `""` for all of it. kind: `model`
    or `dataset`. also: what else can be done.
    """
    if isinstance(error, AtlasError) or getattr(error, "errno", None) in DISK_ERRORS:
        raise error
    asked = f"{what} of {repository}" if what else repository
    why, remedy = _why(error, repository, revision, kind)
    raise AtlasError(
        f"{key}: {asked} at {revision or 'main'} cannot be had from the hub ({why}); {remedy} and run again{also}"
    ) from error


def _why(error: Exception, repository: str, revision: str | None, kind: str) -> tuple[str, str]:
    from huggingface_hub import constants, errors

    causes = list(_causes(error))

    def is_among(*classes: type) -> bool:
        return any(isinstance(each, classes) for each in causes)

    status = next((each.response.status_code for each in causes if isinstance(each, errors.HfHubHTTPError)), None)
    page = f"{constants.ENDPOINT}/{FOLDERS[kind]}{repository}"
    if is_among(errors.GatedRepoError) or "is a gated dataset" in str(error):
        return "it is gated", f"accept its terms at {page}, {LOG_IN} to a token of that account,"
    if is_among(errors.RevisionNotFoundError):
        return "it has no such revision", "check the revision"
    if is_among(errors.RepositoryNotFoundError) or "cannot be accessed" in str(error):
        return "there is none of that name, or it is private", f"check the id, or {LOG_IN} to a token that may read it,"
    if is_among(errors.RemoteEntryNotFoundError):
        return "it has no such file", "check the file's name"
    if status in (401, 403):
        return f"status {status}", f"{LOG_IN} to a token that may read it, see {page},"
    if is_away(error):
        why = (
            "HF_HUB_OFFLINE is set"
            if constants.HF_HUB_OFFLINE
            else f"it cannot be reached: {type(causes[-1]).__name__}"
        )
        options = f" --revision {revision}" if revision else ""
        options += " --repo-type dataset" if kind == "dataset" else ""
        cache = f"no complete snapshot in {constants.HF_HUB_CACHE}"
        return f"{why}, and {cache}", f"fetch it where there is internet with `hf download {repository}{options}`"
    return reason(error), "check id and network"


def is_away(error: Exception) -> bool:
    """Was the hub not reached: offline mode, no network, no answer? Not where it answered with a refusal."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    causes = list(_causes(error))
    if any(isinstance(each, HfHubHTTPError) for each in causes):
        return False
    unreached = (ConnectionError, TimeoutError, LocalEntryNotFoundError)
    return any(isinstance(each, unreached) or _is_transport(each) for each in causes)


def cached_snapshot(repository: str, revision: str | None, kind: str, patterns: list[str] | None = None) -> Path | None:
    """As complete_snapshot, where the hub was not reached; the log says what is taken."""
    folder = complete_snapshot(repository, revision, kind, patterns)
    if folder is not None:
        logger.warning("%s: the hub is not reached; taken from the cache, commit %s", repository, folder.name)
    return folder


def complete_snapshot(
    repository: str, revision: str | None, kind: str, patterns: list[str] | None = None
) -> Path | None:
    """The folder of a repository in the cache of the hub's client, as `hf download` leaves it; None unless it is complete.

    revision: branch, tag or commit (`main`); of a branch what it was when it was fetched. The folder is called by the
    commit. patterns: the files that must be there, as far as the repository has them.
    """
    from huggingface_hub import get_cached_repo_tree, snapshot_download

    where = {"repo_type": kind, "revision": revision or "main"}
    try:
        folder = Path(snapshot_download(repository, **where, allow_patterns=patterns, local_files_only=True))
        get_cached_repo_tree(repository, **where)  # without the list of its files nobody knows whether all are there
    except Exception:  # the hub's client raises errors of many libraries
        return None
    return folder


def repository_files(repository: str, revision: str | None, anew: bool = False) -> list[str]:
    """Paths of all files of a model repository, from the cache of the hub's client if they were listed before.

    revision: branch, tag or commit (`main`); of a branch what it was when it was listed. anew: ask the hub in any case. Raises
    what the hub's client raises; `refuse` says it in a line.
    """
    from huggingface_hub import get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        if not anew:
            return [file.path for file in get_cached_repo_tree(repository, revision=revision)]
    except CachedRepoTreeNotFoundError:
        pass
    snapshot_download(repository, revision=revision, allow_patterns=["README.md"])  # keeps the list of all files
    return [file.path for file in get_cached_repo_tree(repository, revision=revision)]


def hub_text(text: dict):
    """The rows of a dataset on the hub (config section `corpus`) as a stream, from the cache where there is no internet.

    Raises what `datasets` and the hub's client raise; `refuse` says it in a line.
    """
    import datasets
    from huggingface_hub import constants

    which = {"name": text.get("subset"), "split": text.get("split", "train"), "streaming": True}

    def cached() -> Path | None:
        return cached_snapshot(text["id"], text.get("revision"), "dataset")

    if constants.HF_HUB_OFFLINE and (snapshot := cached()):  # else `datasets` may find a copy that it cannot stream
        return datasets.load_dataset(str(snapshot), **which)
    try:
        return datasets.load_dataset(text["id"], revision=text.get("revision"), **which)
    except Exception as error:
        if is_away(error) and (snapshot := cached()):
            return datasets.load_dataset(str(snapshot), **which)
        raise


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _is_transport(error: BaseException) -> bool:
    """An error of the connection, of whichever HTTP library the client uses."""
    return any(kind.__name__ == "TransportError" for kind in type(error).__mro__)
