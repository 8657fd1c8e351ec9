"""One SAE from disk in any supported format, recognised by its files; its hash is checked where one is listed."""

from pathlib import Path

from sae_atlas.io.errors import FETCH, AtlasError, listed, reason
from sae_atlas.io.files import read_json, sha256
from sae_atlas.publish.formats import dictionary_learning, erdos, gemma_scope, one_file, saelens, sparsify
from sae_atlas.publish.formats.metadata import metadata
from sae_atlas.saes.checkpoint import load_checkpoint, load_tensors
from sae_atlas.saes.sae import Sae

FORMATS = ("atlas", "saelens", "sparsify", "dictionary_learning", "erdos", "gemma_scope", "safetensors")
FOLDERS = {"saelens": saelens, "sparsify": sparsify, "dictionary_learning": dictionary_learning}
FILES = {".safetensors": "safetensors", ".npz": "gemma_scope"}
READERS = {**FOLDERS, "erdos": erdos, "gemma_scope": gemma_scope, "safetensors": one_file}
WRITERS = {**FOLDERS, "safetensors": one_file}


def load_sae(path: str | Path, is_transcoder: bool = False) -> Sae:
    """The SAE or transcoder of a folder (published here, SAELens, sparsify, dictionary_learning) or a file (.pt, .npz,
    .safetensors).

    is_transcoder: of Gemma Scope's .npz, which alone does not say it. Raises AtlasError, one line, for what is damaged,
    unknown, or another file than its folder or release lists. Nothing in a file is ever run.
    """
    path = Path(path).expanduser()
    return Sae(**read(path, format_of(path), is_transcoder))


def export(path: str | Path, kind: str, folder: str | Path) -> None:
    """Write the SAE at `path` into `folder` in a format of WRITERS, with what is known of its origin."""
    sae = load_sae(path)
    pair = Path(path) / saelens.FILES[0]
    WRITERS[kind].write(folder, sae, read_json(pair)["metadata"] if pair.is_file() else metadata(sae.config))


def read(path: str | Path, kind: str, is_transcoder: bool = False) -> dict:
    """The checkpoint `{model_state, config, stats}` of an SAE or transcoder in a format of FORMATS.

    is_transcoder: of Gemma Scope's, which do not say it.
    """
    path = Path(path)
    if kind in READERS:
        asked = {"is_transcoder": is_transcoder} if kind == "gemma_scope" else {}
        try:
            return READERS[kind].read(path, **asked)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:  # values of a wrong kind
            raise AtlasError(f"{path}: damaged ({reason(error)}); fetch it again") from error
    if path.is_dir():
        path = path / "model.pt"
    check_listed(path)
    checkpoint = load_checkpoint(path, FETCH)
    for name, tensor in checkpoint["model_state"].items():
        if not tensor.isfinite().all():
            raise AtlasError(f"{path}: {name} holds values that are not finite. {FETCH}")
    return checkpoint


def format_of(path: Path) -> str:
    """Raises AtlasError if nothing there is an SAE."""
    if path.is_dir():
        if (path / "model.pt").is_file():
            return "atlas"
        for kind, module in FOLDERS.items():
            if all((path / name).is_file() for name in module.FILES):
                return kind
        raise AtlasError(f"{path}: holds no SAE; supported formats are {listed(FORMATS)}")
    if path.suffix in FILES:
        return FILES[path.suffix]
    config = load_tensors(path, "Fetch it again.").get("config")
    return "atlas" if isinstance(config, dict) and "recipe" in config else "erdos"


def check_listed(path: Path) -> None:
    """Raise AtlasError if the folder's config.json or SHA256SUMS lists another hash of the file."""
    sums, config = path.parent / "SHA256SUMS", path.parent / "config.json"
    expected = None
    if sums.is_file():
        lines = (line.split(maxsplit=1) for line in sums.read_text(encoding="utf-8").splitlines() if line.strip())
        expected = {name: digest for digest, name in lines}.get(path.name)
    elif config.is_file():
        expected = read_json(config).get("files_sha256", {}).get(path.name)
    if expected is not None and path.is_file() and sha256(path) != expected:
        raise AtlasError(f"{path}: is not the file that was published here (sha256 differs); fetch it again")
