"""Models that our own rules made: their folders checked, adapters put on their base.

What lies in such a folder: sae_atlas/lifecycle/folder.py.
"""

import os
from pathlib import Path

from sae_atlas.base_models.names import check_content
from sae_atlas.io.errors import AtlasError, reason
from sae_atlas.io.files import read_json, sha256

META = "export_meta.json"
ADAPTER = "adapters"
# What of a folder in transformers format makes the model and its tokenizer.
MODEL_FILES = (
    *("*.safetensors", "*.bin", "*.index.json", "config.json"),
    *("tokenizer*", "vocab*", "merges*", "special_tokens_map.json", "added_tokens.json"),
    *("*.model", "*.tiktoken", "*.jinja"),
)


def read_meta(folder: str | Path) -> dict:
    """export_meta.json, with every file's sha256, the folder's name and its content checked against each other.

    Raises AtlasError, one line, for the first file that is missing or another than was written.
    """
    folder = Path(folder).absolute()
    try:
        meta = read_json(folder / META)
        sums, name = meta["sha256"], meta["name"]
    except (OSError, ValueError, KeyError) as error:
        raise AtlasError(f"{folder}: has no readable {META}; make it again or name another folder") from error
    for file, expected in sums.items():
        if not (folder / file).is_file():
            raise AtlasError(f"{folder / file}: is not there; copy the whole folder again or make it anew")
        if (actual := sha256(folder / file)) != expected:
            raise AtlasError(
                f"{folder / file}: sha256 is {actual}, {META} says {expected}; copy it again or make it anew"
            )
    if folder.name != name:
        raise AtlasError(f"{folder}: {META} says that it is {name}; give it that name again")
    args = read_json(folder / "model_args.json")
    check_content(folder, args["architecture"], args["parameters"], meta["training_type"])
    return meta


def model_files(path: str | Path, key: str) -> dict[str, Path]:
    """Files of a model of the user's own by name: of a folder those that make it, or the one that `path` is (`.pt`).

    Raises AtlasError, which names the `key` of the config.
    """
    path = Path(path).expanduser()
    if os.path.isfile(path):  # False of a name that no file can have
        return {path.name: path}
    if not os.path.isfile(path / "config.json"):
        raise AtlasError(f"{key}: {path} is no folder in transformers format (with a config.json) nor a file; name one")
    files = {file for pattern in MODEL_FILES for file in path.glob(pattern) if file.is_file()}
    return {file.name: file for file in sorted(files)}


def weights_sum(folder: str | Path) -> dict[str, str]:
    """sha256 of the weights of a folder in transformers format, by file. Raises AtlasError if there are none."""
    files = sorted([*Path(folder).glob("*.safetensors"), *Path(folder).glob("*.bin")])
    if not files:
        raise AtlasError(f"{folder}: no weights (*.safetensors); fetch them or name another folder")
    return {file.name: sha256(file) for file in files}


def put_on(model, adapter: str | Path):
    """`model` with the adapter's layers in its modules, which keep their names: sites lie where they lay.

    adapter: a folder in peft layout. Raises AtlasError if it cannot be read or was made for other modules.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import SafetensorError, safe_open

    try:
        tuned = PeftModel.from_pretrained(model, str(adapter), is_trainable=False)
        with safe_open(Path(adapter) / "adapter_model.safetensors", "pt") as file:
            stored = set(file.keys())
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise AtlasError(f"{adapter}: cannot be put on this base model ({reason(error)})") from error
    if stored != set(get_peft_model_state_dict(tuned, save_embedding_layers=False)):
        raise AtlasError(f"{adapter}: was made for other modules than this base model has")
    return tuned


def read_meta_if_made(folder: Path) -> dict | None:
    """`read_meta` of a folder of ours, None of any other."""
    return read_meta(folder) if (folder / META).is_file() else None


def check_base(meta: dict, adapter: Path, base: Path) -> None:
    """Raise AtlasError unless the weights in `base` are those that the adapter was trained on."""
    if not meta["is_lora"]:
        raise AtlasError(f"{adapter}: holds no adapter, it is {meta['name']}; give a LoRA's folder")
    if weights_sum(base) != meta["base"]["weights_sha256"]:
        raise AtlasError(f"{adapter}: was trained on other weights than {base}; give {meta['base']['name']}")
