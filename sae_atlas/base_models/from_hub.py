"""A base model's files from the hub: of one commit, all of them, with the bytes that the hub says they have."""

import shutil
from fnmatch import fnmatch
from pathlib import Path

from sae_atlas.base_models.adapters import weights_sum
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import remove, sha256
from sae_atlas.io.hub import cached_snapshot, is_away, refuse

TEXTS = ["*.json", "*.txt", "*.model", "*.jinja"]


def fetch(settings: dict, folder: Path) -> dict:
    """Make `folder` hold the model of `settings` (id, revision); where it came from, for the provenance.

    Without internet it is taken from the cache of the hub's client, if that holds all of it (`hf download`). Files that came
    whole are kept beside it until all have come. Raises AtlasError if one cannot be had or is not what the hub lists; that
    one is removed, so that the next call fetches it again.
    """
    name, revision = settings["id"], settings.get("revision", "main")
    try:
        fetched, about = _from_hub(name, revision, folder)
    except Exception as error:  # the hub's client raises errors of many libraries
        cached = _from_cache(name, revision, folder) if is_away(error) else None
        if cached is None:
            refuse(
                error, "base_model.id", name, revision, also=", or use source `local`. Files that came whole are kept."
            )
        fetched, about = cached
    hashes = _checked(fetched, about["listed"], name)
    remove(fetched / ".cache")  # the hub client's notes
    remove(folder)
    fetched.rename(folder)
    return {
        "path": folder.name,
        "source": f"hub {name}",
        "revision": about["commit"],
        "licence": about["licence"],
        "quantisation": None,
        "weights_sha256": hashes,
    }


def _from_hub(name: str, revision: str, folder: Path) -> tuple[Path, dict]:
    """A folder with the files, and what the hub says of them: commit, licence, `listed` file -> sha256 (of small ones None)."""
    from huggingface_hub import HfApi, snapshot_download

    info = HfApi().model_info(name, revision=revision, files_metadata=True)
    listed = {file.rfilename: file.lfs.sha256 if file.lfs else None for file in info.siblings}
    fetched = _beside(folder, info.sha)
    for stale in fetched.glob(".cache/huggingface/download/**/*.incomplete"):  # of a fetch that was killed
        remove(stale)
    patterns = _patterns(listed)
    snapshot_download(name, revision=info.sha, local_dir=fetched, allow_patterns=patterns)
    licence = (info.card_data or {}).get("license")
    return fetched, {"commit": info.sha, "licence": licence, "listed": _matching(listed, patterns)}


def _from_cache(name: str, revision: str, folder: Path) -> tuple[Path, dict] | None:
    """The same of the snapshot in the cache of the hub's client; None if there is none with all files."""
    from huggingface_hub import RepoCard, get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        tree = get_cached_repo_tree(name, revision=revision)
    except CachedRepoTreeNotFoundError:
        return None
    listed = {file.path: file.lfs.sha256 if file.lfs else None for file in tree}
    patterns = _patterns(listed)
    snapshot = cached_snapshot(name, revision, "model", patterns)
    if snapshot is None:
        return None
    fetched, listed = _beside(folder, snapshot.name), _matching(listed, patterns)
    for file in listed:
        (fetched / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(snapshot / file, fetched / file)
    card = snapshot / "README.md"
    licence = RepoCard.load(card).data.get("license") if card.is_file() else None
    return fetched, {"commit": snapshot.name, "licence": licence, "listed": listed}


def _beside(folder: Path, commit: str) -> Path:
    return folder.with_name(f".fetch-{commit}")  # of this commit alone


def _patterns(files) -> list[str]:
    """Of the files that make a model: what there is in two forms is fetched in one."""
    return [*TEXTS, "*.safetensors*" if any(file.endswith(".safetensors") for file in files) else "*.bin*"]


def _matching(listed: dict, patterns: list[str]) -> dict:
    return {file: digest for file, digest in listed.items() if any(fnmatch(file, pattern) for pattern in patterns)}


def _checked(folder: Path, listed: dict[str, str | None], name: str) -> dict[str, str]:
    """sha256 of the weights, once all that is listed is there: the client looks at lengths only, and not at all offline."""
    for file in listed:
        if not (folder / file).is_file():
            raise AtlasError(f"base_model.id: {file} of {name} did not come; run again")
    weights = weights_sum(folder)
    for file, digest in listed.items():
        path = folder / file
        if digest and digest != (weights.get(file) or sha256(path)):
            remove(path)
            raise AtlasError(
                f"base_model.id: {file} of {name} came with other bytes than the hub lists (sha256 differs); "
                "it was removed, run again to fetch it anew"
            )
    return weights
