"""Load a prepared base model, or its tokenizer alone."""

from pathlib import Path

from sae_atlas.io.errors import FETCH, AtlasError, reason
from sae_atlas.io.files import read_json
from sae_atlas.io.log import DISK_ERRORS

SIZES = (
    ("num_hidden_layers", "n_layer"),
    ("hidden_size", "n_embd"),
    ("intermediate_size", "n_inner"),
    ("vocab_size",),
)
MOST_PER_BYTE = 16  # parameters; four-bit weights have 2, and some blocks are less than width x width


def is_model(provenance: str | Path) -> bool:
    """Is there a model behind a provenance, and not rows of saved or synthetic activations?"""
    return "rows" not in read_json(provenance)


def _prepared(provenance: str | Path) -> tuple[Path, dict]:
    """(the prepared folder, provenance). Raises AtlasError where there is none."""
    try:
        origin = read_json(provenance)
        if "rows" not in origin and "path" not in origin:
            raise ValueError("it names no folder")
    except (OSError, ValueError, TypeError) as error:
        if getattr(error, "errno", None) in DISK_ERRORS:
            raise
        raise AtlasError(
            f"{provenance}: is not what a run says of its base model ({reason(error)}); give "
            "results/base_model/provenance.json of a run"
        ) from error
    if "rows" in origin:
        raise AtlasError(f"{provenance}: is of rows of activations; there is no model here to load")
    return Path(provenance).parent / origin["path"], origin


def load(provenance: str | Path, dtype: str, device: str = "auto"):
    """(model in evaluation mode, provenance). device: as `read_model` takes it. Code from the folder is never run."""
    folder, origin = _prepared(provenance)
    model = read_model(folder, dtype, device)
    if "adapter" in origin:
        from sae_atlas.base_models.adapters import put_on

        model = put_on(model, Path(provenance).parent / origin["adapter"]).get_base_model()
    return model.requires_grad_(False), origin


def read_model(folder: Path, dtype: str, device: str | dict = "auto"):
    """The model in a folder in transformers format, in evaluation mode. Raises AtlasError if it does not load whole.

    device: auto (a GPU where there is one), cpu, cuda; spread (over the GPUs, then memory, then disk, as accelerate
    finds room) or what accelerate calls a device map (module path -> GPU's number, cpu or disk). What lies elsewhere than
    on the device that computes it is fetched for its part of every pass.
    """
    from tempfile import TemporaryDirectory

    import torch

    from sae_atlas.io.devices import SPREAD, reserve, resolve

    parts = device == SPREAD or isinstance(device, dict)
    if device == SPREAD:
        reserve(device)
    on = None if parts else resolve(device)  # a GPU that is missing is reported before the work
    from transformers import AutoModelForCausalLM  # here, for it may ask CUDA
    from transformers.utils.logging import disable_progress_bar

    import sae_atlas.base_models.restoration  # noqa: F401 - makes its architecture known to transformers

    disable_progress_bar()
    placed = {}
    if parts:
        on_disk = TemporaryDirectory(prefix="sae-atlas-")
        placed = {"device_map": "auto" if device == SPREAD else device, "offload_folder": on_disk.name}
    _check_sizes(folder)
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            **placed,
        )
    except Exception as error:  # a damaged file shows as errors of many libraries
        if getattr(error, "errno", None) in DISK_ERRORS:
            raise
        raise AtlasError(f"{folder}: does not load ({reason(error)}). {_remedy(folder)}") from error
    if loading["missing_keys"]:  # transformers would fill them with random numbers
        raise AtlasError(f"{folder}: its weights lack {sorted(loading['missing_keys'])[0]}. {_remedy(folder)}")
    if parts:
        model.on_disk = on_disk  # kept as long as the model
    else:
        model = model.to(on)
    return model.eval().requires_grad_(False)


def load_base_model(path: str | Path, adapter: str | Path | None = None, dtype: str = "float32", device: str = "auto"):
    """A base model in evaluation mode, ready for `capture` and `patch`.

    path: a folder in transformers format, as the rules write it under models/ or from elsewhere; or the folder of a LoRA,
    whose base is then loaded from where it lay. adapter: the folder of a LoRA, or its `adapters/`, to be put on top.
    Folders with an export_meta.json are checked: every sha256, the name, and that an adapter gets the base it was trained
    on. Raises AtlasError with one line that names the file. Code in a folder is never run.
    """
    from sae_atlas.base_models.adapters import (  # here, for peft takes long
        ADAPTER,
        check_base,
        put_on,
        read_meta_if_made,
    )

    folder = Path(path).expanduser().absolute()
    meta = read_meta_if_made(folder)
    if meta and meta["is_lora"]:
        if adapter is not None:
            raise AtlasError(f"{folder}: is an adapter itself; merge it first, or give its base model as path")
        base = (folder / meta["base"]["path"]).resolve()
        if not base.is_dir():
            raise AtlasError(
                f"{folder}: its base model is not at {base}; give it: load_base_model(BASE, adapter={str(path)!r})"
            )
        return load_base_model(base, adapter=folder, dtype=dtype, device=device)
    model = read_model(folder, dtype, device)
    if adapter is None:
        return model
    adapter = Path(adapter).expanduser().absolute()
    home = adapter.parent if adapter.name == ADAPTER else adapter
    about = read_meta_if_made(home)
    if about is None:  # from elsewhere
        return put_on(model, adapter).get_base_model()
    check_base(about, home, folder)
    return put_on(model, home / ADAPTER).get_base_model()


def load_tokenizer(provenance: str | Path):
    """The tokenizer in the prepared folder."""
    from transformers import AutoTokenizer

    folder, _ = _prepared(provenance)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # as above
        if getattr(error, "errno", None) in DISK_ERRORS:
            raise
        raise AtlasError(f"{folder}: its tokenizer does not load ({reason(error)}). {_remedy(folder)}") from error
    if tokenizer.is_fast and getattr(tokenizer.backend_tokenizer.model, "dropout", None):
        tokenizer.backend_tokenizer.model.dropout = None  # of merges, in training: the same text would give other ids
    return tokenizer


def largest_id(tokenizer) -> int:
    """The largest id that a tokenizer may give: beyond its length where its vocabulary has holes."""
    return max(tokenizer.get_vocab().values(), default=-1)


def embedding_rows(provenance: str | Path) -> int | None:
    """Rows of a prepared model's embedding; None for a tokenizer alone, whose model is made for all of its ids."""
    return read_json(provenance).get("vocabulary")


def without_embedding(tokenizer, rows: int | None) -> dict[int, str]:
    """Tokens by id that an embedding of `rows` rows has no row for; with None there are none.

    Tokenizers of models that also read images keep their marks in those of text alone (Gemma 3: `<image_soft_token>`).
    """
    vocabulary = tokenizer.get_vocab() if rows is not None else {}
    return {number: token for token, number in vocabulary.items() if number >= rows}


def special_ids(tokenizer) -> set[int]:
    """Ids of all special tokens: those that have a role, and those that were added as special, as marks of a template."""
    added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | set(tokenizer.all_special_ids)


def start_token(tokenizer) -> int:
    """The id that begins documents: the tokenizer's start token, else its end token.

    Raises AtlasError if it has neither, if that token is not what the tokenizer calls by its id, or if the tokenizer puts
    special tokens into texts by itself: then documents would be joined by what is none of their own.
    """
    name = tokenizer.bos_token or tokenizer.eos_token
    if name is None:
        raise AtlasError(
            "base_model: its tokenizer has neither a start nor an end token to join documents with; name one in its "
            "tokenizer_config.json (bos_token)"
        )
    start = tokenizer.get_vocab().get(name)
    if start is None:
        raise AtlasError(f"base_model: its tokenizer calls {name!r} its start token, which is not in its vocabulary")
    special = special_ids(tokenizer)
    ordinary = next((number for number in sorted(tokenizer.get_vocab().values()) if number not in special), start)
    for text in (
        "",
        tokenizer.decode([ordinary]),
    ):  # a word that it knows: what it does not know may be its start token
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        added = set(ids) & special - {tokenizer.unk_token_id} if ordinary != start else set()
        if added or (not text and ids):
            tokens = tokenizer.convert_ids_to_tokens(sorted(added or ids))
            raise AtlasError(
                f"base_model: its tokenizer puts {', '.join(map(repr, tokens))} into every text, also where it is told to add "
                "nothing; remove that from its tokenizer.json"
            )
    return start


def _remedy(folder: Path) -> str:
    """For a folder that does not load. Only what lies beside a provenance was made by the workflow, which makes it again."""
    provenance = folder.parent / "provenance.json"
    return f"Delete {provenance} and rerun; the folder will be rebuilt." if provenance.is_file() else FETCH


def _check_sizes(folder: Path) -> None:
    """Raise AtlasError if the config asks for a model that its weights cannot be: it would be made before they are read."""
    try:
        config = read_json(folder / "config.json")
        config = config.get("text_config", config)
        weights = sum(file.stat().st_size for file in folder.iterdir() if file.suffix in (".safetensors", ".bin"))
        layers, width, inner, words = (_size(config, names) for names in SIZES)
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise AtlasError(f"{folder}: its config.json is not readable ({reason(error)}). {_remedy(folder)}") from error
    if width * (words + layers * max(inner, width)) > MOST_PER_BYTE * weights:
        raise AtlasError(
            f"{folder}: config.json asks for {layers} blocks of width {width}: more than its weights hold. {_remedy(folder)}"
        )


def _size(config: dict, names: tuple[str, ...]) -> int:
    size = next((config[name] for name in names if config.get(name) is not None), 1)
    if type(size) is not int or size < 0:
        raise ValueError(f"{names[0]} is {str(size)[:40]!r}")
    return size
