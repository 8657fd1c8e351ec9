"""One SAE from disk in any supported format, recognised by its files; its hash is checked where one is listed."""

from pathlib import Path

from torch import Tensor

from sae_atlas.config.layouts import LAYOUTS, shapes_of
from sae_atlas.config.published import FILES, OPTIONAL, PAIRS
from sae_atlas.io.errors import FETCH, AtlasError, listed, reason
from sae_atlas.io.files import sha256
from sae_atlas.publish.cards.listed import read_sums
from sae_atlas.publish.formats import (
    bare,
    circuit_tracer_layer,
    dictionary_learning,
    erdos,
    gemma_scope,
    gemma_scope_2,
    llama_scope,
    one_file,
    qwen_scope,
    saelens,
    sparsify,
)
from sae_atlas.publish.formats.foreign import read_config, shapes_in
from sae_atlas.publish.formats.metadata import metadata
from sae_atlas.saes.checkpoint import load_checkpoint, load_tensors
from sae_atlas.saes.sae import Sae

ONE_FILE = "safetensors"  # ours, which no release is of
FORMATS = (*FILES, ONE_FILE)
READERS = {
    "saelens": saelens.read,
    "sparsify": sparsify.read,
    "dictionary_learning": dictionary_learning.read,
    "erdos": erdos.read,
    "gemma_scope": gemma_scope.read,
    "gemma_scope_2": gemma_scope_2.read,
    "qwen_scope": qwen_scope.read,
    "circuit_tracer": circuit_tracer_layer.read,
    ONE_FILE: one_file.read,
    **llama_scope.READERS,
    **bare.READERS,
}
# What the files of a format may not say -> the formats; a reader takes it as an argument of this name.
ASKED = {"is_transcoder": ("gemma_scope", "gemma_scope_2"), "k": ("qwen_scope",), "registered": ("saelens",)}
OF_TORCH = ("qwen_scope", *bare.READERS)  # one file of torch.save
WRITERS = {
    "saelens": saelens,
    "sparsify": sparsify,
    "dictionary_learning": dictionary_learning,
    ONE_FILE: one_file,
}


def load_sae(path: str | Path, is_transcoder: bool = False, k: int | None = None) -> Sae:
    """The SAE or transcoder of a folder or a file, in any format of docs/formats.md.

    is_transcoder: of Gemma Scope's .npz, and of Gemma Scope 2's folders that have no config.json; k: active latents, of
    Qwen-Scope's without one. Raises AtlasError, one line, for what is damaged, unknown, or another file than its folder or
    release lists. Nothing in a file is ever run.
    """
    path = Path(path).expanduser()
    return Sae(**read(path, format_of(path), is_transcoder, k))


def export(path: str | Path, kind: str, folder: str | Path) -> None:
    """Write the SAE at `path` into `folder` in a format of WRITERS, with what is known of its origin."""
    sae = load_sae(path)
    pair = Path(path).expanduser() / saelens.FILES[0]
    stated = read_config(pair).get("metadata") if pair.is_file() else None  # others' folders may have none
    WRITERS[kind].write(folder, sae, stated or metadata(sae.config))


def read(
    path: str | Path, kind: str, is_transcoder: bool = False, k: int | None = None, registered: dict | None = None
) -> dict:
    """The checkpoint `{model_state, config, stats}` of an SAE or transcoder in a format of FORMATS.

    is_transcoder, k: as load_sae has them. registered: what SAELens' registry says of an SAE in its own format beside its
    files, {config_overrides, norm_scaling_factor}; None where it is not in there.
    """
    path = Path(path)
    if kind in READERS:
        given = {"is_transcoder": is_transcoder, "k": k, "registered": registered}
        asked = {name: given[name] for name, kinds in ASKED.items() if kind in kinds}
        try:
            return READERS[kind](path, **asked)
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
        for kind, names in PAIRS.items():
            if all((path / name).is_file() for name in (names[1:] if kind in OPTIONAL else names)):
                return kind
        raise AtlasError(f"{path}: holds no SAE; supported formats are {listed(FORMATS)}")
    if path.suffix == ".npz":
        return "gemma_scope"
    if path.suffix == ".safetensors":
        return "circuit_tracer" if _has(shapes_in(path), "circuit_tracer") else ONE_FILE
    content = load_tensors(path, "Fetch it again.")
    config = content.get("config")
    if isinstance(config, dict) and "recipe" in config:
        return "atlas"
    shapes = {name: tuple(value.shape) for name, value in content.items() if isinstance(value, Tensor)}
    return next((kind for kind in OF_TORCH if _has(shapes, kind)), "erdos")


def _has(shapes: dict[str, tuple[int, ...]], kind: str) -> bool:
    """Are there the tensors of a format, as many rows or columns of its encoder as it has biases?"""
    layout = LAYOUTS[kind]
    (encoder, sides), (bias, _) = layout["W_enc"], layout["b_enc"]
    if not set(shapes_of(layout)) <= set(shapes) or (len(shapes[encoder]), len(shapes[bias])) != (2, 1):
        return False
    return shapes[encoder][sides.index("d_sae")] == shapes[bias][0]


def check_listed(path: Path) -> None:
    """Raise AtlasError if the folder's config.json or SHA256SUMS lists another hash of the file."""
    sums, config = read_sums(path.parent), path.parent / "config.json"
    if not sums and config.is_file():
        sums = read_config(config).get("files_sha256", {})
    expected = sums.get(path.name)
    if expected is not None and path.is_file() and sha256(path) != expected:
        raise AtlasError(f"{path}: is not the file that was published here (sha256 differs); fetch it again")
