"""A base model's files from the hub: of one commit, all of them, with the bytes that the hub says they have."""

from fnmatch import fnmatch
from pathlib import Path

from sae_atlas.base_models.made import weights_sum
from sae_atlas.errors import AtlasError
from sae_atlas.files import remove, sha256
from sae_atlas.log import DISK_ERRORS

TEXTS = ["*.json", "*.txt", "*.model"]


def fetch(settings: dict, folder: Path) -> dict:
    """Make `folder` hold the model of `settings` (id, revision); where it came from, for the provenance.

    Files that came whole are kept beside it until all have come. Raises AtlasError if one cannot be had or is not what
    the hub lists; that one is removed, so that the next call fetches it again.
    """
    from huggingface_hub import HfApi, snapshot_download

    name, revision = settings["id"], settings.get("revision", "main")
    try:
        info = HfApi().model_info(name, revision=revision, files_metadata=True)
        safetensors = any(file.rfilename.endswith(".safetensors") for file in info.siblings)
        patterns = [*TEXTS, "*.safetensors*" if safetensors else "*.bin*"]
        fetched = folder.with_name(f".fetch-{info.sha}")  # of this commit alone
        for stale in fetched.glob(".cache/huggingface/download/**/*.incomplete"):  # of a fetch that was killed
            remove(stale)
        snapshot_download(name, revision=info.sha, local_dir=fetched, allow_patterns=patterns)
    except Exception as error:  # the hub's client raises errors of many libraries
        if getattr(error, "errno", None) in DISK_ERRORS:
            raise
        raise AtlasError(
            f"base_model.id: {name} at {revision} cannot be had from the hub ({type(error).__name__}); check id and "
            "network and run again, or use source `local` with a folder you have. Files that came whole are kept."
        ) from error
    listed = [file for file in info.siblings if any(fnmatch(file.rfilename, pattern) for pattern in patterns)]
    hashes = _checked(fetched, listed, name)
    remove(fetched / ".cache")  # the hub client's notes
    remove(folder)
    fetched.rename(folder)
    return {
        "path": folder.name,
        "source": f"hub {name}",
        "revision": info.sha,
        "licence": (info.card_data or {}).get("license"),
        "quantisation": None,
        "weights_sha256": hashes,
    }


def _checked(folder: Path, listed: list, name: str) -> dict[str, str]:
    """sha256 of the weights, once all that is listed is there: the client looks at lengths only, and not at all offline."""
    for file in listed:
        if not (folder / file.rfilename).is_file():
            raise AtlasError(f"base_model.id: {file.rfilename} of {name} did not come; run again")
    weights = weights_sum(folder)
    for file in listed:
        path = folder / file.rfilename
        if file.lfs and file.lfs.sha256 != (weights.get(file.rfilename) or sha256(path)):
            remove(path)
            raise AtlasError(
                f"base_model.id: {file.rfilename} of {name} came with other bytes than the hub lists (sha256 differs); "
                "it was removed, run again to fetch it anew"
            )
    return weights
