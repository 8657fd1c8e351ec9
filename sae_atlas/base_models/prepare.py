"""Make the base model ready: a folder in transformers format and a provenance record beside it."""

import json
from pathlib import Path

from sae_atlas.base_models.packages import find_model, sha256
from sae_atlas.errors import AtlasError
from sae_atlas.files import atomic, remove, write_json
from sae_atlas.log import DISK_ERRORS, logger


def prepare(provenance: str | Path, settings: dict, record: dict) -> None:
    """Fetch, convert or make the model of `settings` (config section `base_model`) and write its `provenance`.

    The provenance says where the folder is (`path`, relative to the provenance itself), where the weights came from,
    their sha256, licence, quantisation, sizes (`n_layers`, `d_model`) and the `record`. Raises AtlasError if the source
    cannot be had.
    """
    provenance = Path(provenance)
    folder = provenance.parent / "model"
    makers = {"package": _from_package, "hub": _from_hub, "local": _from_local, "random": _at_random}
    origin = makers[settings["source"]](settings, folder)
    write_json(provenance, {**origin, **_sizes(provenance.parent / origin["path"]), "record": record})


def _from_package(settings: dict, folder: Path) -> dict:
    from sae_atlas.base_models.gguf_llama import read_model, read_tokenizer

    embedded = find_model(settings["package"])
    file = embedded.path()
    logger.info("converting %s", file.name)
    with atomic(folder) as partial:
        read_model(file).save_pretrained(partial)
        read_tokenizer(file).save_pretrained(partial)
    return {
        "path": folder.name,
        "source": f"package {embedded.package}=={embedded.version}, file {embedded.file}",
        "source_sha256": embedded.sha256,
        "licence": embedded.licence,
        "quantisation": embedded.quantisation,
        "weights_sha256": _weights_hash(folder),
    }


def _from_hub(settings: dict, folder: Path) -> dict:
    from huggingface_hub import HfApi, snapshot_download

    name, revision = settings["id"], settings.get("revision", "main")
    try:
        info = HfApi().model_info(name, revision=revision)
        safetensors = any(file.rfilename.endswith(".safetensors") for file in info.siblings)
        weights = "*.safetensors*" if safetensors else "*.bin*"
        fetched = folder.with_name(f".fetch-{info.sha}")  # of this commit alone; goes on where it was cut off
        patterns = ["*.json", "*.txt", "*.model", weights]
        snapshot_download(name, revision=info.sha, local_dir=fetched, allow_patterns=patterns)
    except Exception as error:  # the hub's client raises errors of many libraries
        if getattr(error, "errno", None) in DISK_ERRORS:
            raise
        raise AtlasError(
            f"base_model.id: {name} at {revision} cannot be had from the hub ({type(error).__name__}); check id and "
            "network, or use source `local` with a folder you have. What was fetched is kept."
        ) from error
    remove(folder)
    fetched.rename(folder)
    return {
        "path": folder.name,
        "source": f"hub {name}",
        "revision": info.sha,
        "licence": (info.card_data or {}).get("license"),
        "quantisation": None,
        "weights_sha256": _weights_hash(folder),
    }


def _from_local(settings: dict, folder: Path) -> dict:
    path = Path(settings["path"]).expanduser().resolve()
    if not (path / "config.json").is_file():
        raise AtlasError(f"base_model.path: {path}/config.json is not there; give a folder in transformers format")
    return {
        "path": str(path),
        "source": f"local {path.name}",
        "licence": None,
        "quantisation": None,
        "weights_sha256": _weights_hash(path),
    }


def _at_random(settings: dict, folder: Path) -> dict:
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, AutoModelForCausalLM

    from sae_atlas.base_models.byte_tokenizer import byte_tokenizer

    if settings["tokenizer"] == "package":
        from sae_atlas.base_models.gguf_llama import read_tokenizer

        tokenizer = read_tokenizer(find_model("smollm2-135m-instruct").path())
    else:
        tokenizer = byte_tokenizer()
    try:
        config = AutoConfig.for_model(settings["architecture"], **{"vocab_size": len(tokenizer), **settings["sizes"]})
        torch.manual_seed(settings["seed"])
        model = AutoModelForCausalLM.from_config(config)
    except (TypeError, ValueError, StrictDataclassError) as error:
        why = str(error).splitlines()[-1].strip()
        raise AtlasError(f"base_model.sizes: no {settings['architecture']} has these sizes ({why})") from error
    with atomic(folder) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
    return {
        "path": folder.name,
        "source": f"random {settings['architecture']}, seed {settings['seed']}",
        "licence": None,
        "quantisation": None,
        "weights_sha256": _weights_hash(folder),
    }


def _weights_hash(folder: Path) -> dict[str, str]:
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")])
    if not files:
        raise AtlasError(f"{folder}: no weights (*.safetensors); fetch them or name another folder")
    return {file.name: sha256(file) for file in files}


def _sizes(folder: Path) -> dict:
    config = json.loads((folder / "config.json").read_text())
    text = config.get("text_config", config)
    return {
        "architecture": config["model_type"],
        "n_layers": text.get("num_hidden_layers", text.get("n_layer")),
        "d_model": text.get("hidden_size", text.get("n_embd")),
        "vocabulary": text["vocab_size"],
    }
