"""Publish a finished folder on the hub: exactly the files it lists, checked first. The token is the hub client's own affair."""

from pathlib import Path

from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import read_json, sha256
from sae_atlas.publish.cards.listed import SUMS, read_sums, unlisted
from sae_atlas.publish.cards.names import PUBLISHED

PAGES = ("README.md", "config.yaml")  # that a release has, beside its checkpoints and plots


def push(folder: str | Path, repo_id: str, dry_run: bool) -> str:
    """Upload a release or an SAE's folder to the model repository `repo_id`, made if need be, as one commit.

    Returns what was uploaded, or would be, file by file with sizes. The token comes from HF_TOKEN or `hf auth login`.
    Raises AtlasError if the folder is not whole, a hash is wrong, a file is no part of it, or the hub refuses.
    """
    folder = Path(folder)
    files = listed_files(folder)
    sizes = {name: (folder / name).stat().st_size for name in files}
    lines = [f"{size:>15,}  {name}" for name, size in sizes.items()]
    total = f"{sum(sizes.values()):>15,}  bytes in {len(files)} files"
    if dry_run:
        return "\n".join([*lines, total, f"nothing was uploaded (--dry-run); it would go to {repo_id}"])
    return "\n".join([*lines, total, f"published at {_upload(folder, files, repo_id)}"])


def listed_files(folder: Path) -> list[str]:
    """What the folder publishes, hashes checked. Raises AtlasError, one line per problem."""
    if (folder / SUMS).is_file():
        hashes = read_sums(folder)
        if missing := [name for name in PAGES if name not in hashes]:
            raise AtlasError(
                f"{folder / SUMS}: does not list {' and '.join(missing)}, as releases of an earlier version; "
                "run the workflow again"
            )
        files = [SUMS, *hashes]
    elif (folder / "model_card.md").is_file() and (folder / "config.json").is_file():
        hashes = read_json(folder / "config.json").get("files_sha256")
        files = list(PUBLISHED)
    else:
        hashes = None
    if hashes is None:
        raise AtlasError(f"{folder}: neither a release (SHA256SUMS) nor a published SAE (model_card.md, config.json)")
    problems = [
        f"{folder / name}: is missing; run the workflow again" for name in files if not (folder / name).is_file()
    ]
    problems += [
        f"{folder / name}: is not the file that was published here (sha256 differs); run the workflow again"
        for name, digest in hashes.items()
        if (folder / name).is_file() and sha256(folder / name) != digest
    ]
    problems += [
        f"{folder / name}: is a link that leads out of the folder; put the file itself there"
        for name in files
        if not (folder / name).resolve().is_relative_to(folder.resolve())
    ]
    problems += [
        f"{folder / name}: no part of what is published; remove it" for name in unlisted(folder, dict.fromkeys(files))
    ]
    if problems:
        raise AtlasError("\n".join(problems))
    return files


def _upload(folder: Path, files: list[str], repo_id: str) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if get_token() is None:
        raise AtlasError("no token for the hub; set HF_TOKEN or run `hf auth login`")
    api = HfApi(library_name="sae-atlas")
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in files]
    try:
        api.create_repo(repo_id, exist_ok=True)
        return api.create_commit(repo_id, operations, commit_message=f"Publish {folder.name}").commit_url
    except HFValidationError as error:
        raise AtlasError(f"--repo-id {repo_id}: no name of a repository; write owner/name") from error
    except (HfHubHTTPError, OSError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        why = f"status {status}" if status else type(error).__name__
        raise AtlasError(
            f"{repo_id}: the hub refused ({why}); check the name, the token's rights and the network"
        ) from error
