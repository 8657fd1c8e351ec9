"""Make the base model ready: a folder in transformers format and a provenance record beside it."""

import os
from pathlib import Path

from sae_atlas.base_models import from_hub
from sae_atlas.base_models.adapters import ADAPTER, check_base, read_meta, weights_sum
from sae_atlas.base_models.from_scratch import random_model
from sae_atlas.base_models.load import read_model, special_ids, start_token, without_embedding
from sae_atlas.base_models.packages import find_model
from sae_atlas.base_models.written import write_folder
from sae_atlas.io.errors import AtlasError, listed, reason
from sae_atlas.io.files import atomic, read_json, remove, sha256, write_json
from sae_atlas.io.log import DISK_ERRORS, logger
from sae_atlas.io.provenance import current_record
from sae_atlas.own_arrays.files import find_layers
from sae_atlas.own_arrays.read import common_shape


def prepare(provenance: str | Path, made: str | Path | None = None, **settings) -> None:
    """Fetch, convert or make the model of `settings` (config section `base_model`) and write its `provenance`.

    made: export_meta.json of the folder that our rules wrote, for sources `pretrain`, `lora` and `merged`.

    The provenance says where the folder is (`path`, relative to the provenance itself), where the weights came from,
    their sha256, licence, quantisation, sizes (`n_layers`, `d_model`), where its sites were found on the weights, and the
    `record`. Raises AtlasError if the source cannot be had, or if no stream of blocks is found in the model.
    """
    provenance = Path(provenance)
    folder = provenance.parent / "model"
    arriving = folder.with_name(".model")  # until all is known of it: the provenance that is there tells of `folder`
    if made is not None:
        origin = _from_rules(settings, provenance, Path(made).parent)
    else:
        makers = {
            "package": _from_package,
            "hub": from_hub.fetch,
            "local": _from_local,
            "restoration": _from_restoration,
            "random": _at_random,
        }
        origin = makers[settings["source"]](settings, arriving)
    model = (provenance.parent / origin["path"]).resolve()
    sizes, sites = checked_sizes(model), _sites(model)
    if origin["path"] == arriving.name:
        remove(folder)
        arriving.rename(folder)
        origin["path"] = folder.name
    about = {
        **sizes,
        "n_layers": len(sites["layers"]),
        "sites": sites,
    }  # counted, for a config may count parts of blocks
    write_json(provenance, {**origin, **about, "record": current_record()})


def prepare_rows(
    provenance: str | Path,
    layers: list[int],
    source: str,
    path: str | None = None,
    generator: dict | None = None,
    rows: int = 0,
) -> None:
    """Write the `provenance` of rows that stand in place of activations, and no model: `path` is None, `rows` how many every
    layer has. Synthetic ones are drawn first, into the folder of the provenance (synthetic.truth).

    layers: those of the atlas, whose arrays must have one shape; source, path, generator: of the config section `base_model`;
    rows: to draw. Raises AtlasError if they cannot be read.
    """
    named = source
    if generator is None:
        named += f" {Path(path).name}"
    else:
        from sae_atlas.synthetic.truth import write_worlds  # here, for models need no scipy

        named += f" rows of {generator['features']} features, seed {generator['seed']}"
        path = write_worlds(Path(provenance).parent, rows, generator)
    locations = find_layers(path)
    shape = common_shape({layer: locations[layer] for layer in layers})
    about = {
        "path": None,
        "source": named,
        "licence": None,
        "quantisation": None,
        "weights_sha256": {},
        "architecture": None,
        "d_model": shape.width,
        "rows": shape.rows,
        "dtype": shape.dtype,
        "n_layers": len(locations),
        "sites": None,
        **({"generator": generator} if generator else {}),
    }
    write_json(provenance, {**about, "record": current_record()})


def _from_package(settings: dict, folder: Path) -> dict:
    from sae_atlas.base_models.gguf_llama import read_model, read_tokenizer

    embedded = find_model(settings["package"])
    file = embedded.path()
    logger.info("converting %s", file.name)
    with atomic(folder) as partial:
        write_folder(partial, read_tokenizer(file), read_model(file))
    return {
        "path": folder.name,
        "source": f"package {embedded.package}=={embedded.version}, file {embedded.file}",
        "source_sha256": embedded.sha256,
        "licence": embedded.licence,
        "quantisation": embedded.quantisation,
        "weights_sha256": weights_sum(folder),
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
        "weights_sha256": weights_sum(path),
    }


def _from_restoration(settings: dict, folder: Path) -> dict:
    from sae_atlas.base_models.code_points import code_point_tokenizer
    from sae_atlas.base_models.restoration import read_restoration

    path = Path(settings["path"]).expanduser().resolve()
    if not path.is_file():
        raise AtlasError(f"base_model.path: {path} is not there; give the model's .pt")
    model = read_restoration(path)
    with atomic(folder) as partial:
        write_folder(partial, code_point_tokenizer(model.config.vocab_size), model)
    return {
        "path": folder.name,
        "source": f"restoration {path.name}",
        "source_sha256": sha256(path),
        "licence": None,
        "quantisation": None,
        "weights_sha256": weights_sum(folder),
    }


def _at_random(settings: dict, folder: Path) -> dict:
    words = named_tokenizer(settings["tokenizer"])
    model = random_model(settings["architecture"], settings["sizes"], words, settings["seed"])
    with atomic(folder) as partial:
        write_folder(partial, words, model)
    return {
        "path": folder.name,
        "source": f"random {settings['architecture']}, seed {settings['seed']}",
        "licence": None,
        "quantisation": None,
        "weights_sha256": weights_sum(folder),
    }


def make_tokenizer(provenance: str | Path, tokenizer: str) -> None:
    """Write a tokenizer (`named_tokenizer`) alone, in a folder beside its provenance, as `load_tokenizer` reads it."""
    folder = Path(provenance).parent / "tokenizer"
    with atomic(folder) as partial:
        write_folder(partial, named_tokenizer(tokenizer))
    write_json(provenance, {"path": folder.name, "tokenizer": tokenizer, "record": current_record()})


def named_tokenizer(name: str):
    """`package`: the embedded model's; `bytes`: an id per byte."""
    if name == "package":
        from sae_atlas.base_models.gguf_llama import read_tokenizer

        return read_tokenizer(find_model("smollm2-135m-instruct").path())
    from sae_atlas.base_models.byte_tokenizer import byte_tokenizer

    return byte_tokenizer()


def _from_rules(settings: dict, provenance: Path, made: Path) -> dict:
    """A folder under models/, used in place; an adapter stands beside the folder of its base."""
    meta = read_meta(made)
    folders = {"path": made}
    if meta["is_lora"]:
        folders = {"path": made / meta["base"]["path"], "adapter": made / ADAPTER}
        check_base(meta, made, folders["path"])
    return {
        **{key: os.path.relpath(folder, provenance.parent) for key, folder in folders.items()},
        "source": f"{settings['source']} {meta['name']}",
        **{key: meta.get("base", {}).get(key) for key in ("licence", "quantisation")},
        "weights_sha256": {file: value for folder in folders.values() for file, value in weights_sum(folder).items()},
    }


def _sites(folder: Path) -> dict:
    """Measured in the precision of the weights' files, which takes the least memory."""
    from sae_atlas.sites.measure import measure

    config = read_json(folder / "config.json")
    return measure(read_model(folder, config.get("dtype") or config.get("torch_dtype") or "float32", "cpu")).plain()


def checked_sizes(folder: Path) -> dict:
    """Numbers of the model in a folder under our names. Raises AtlasError for a tokenizer that does not fit or load.

    Of its ids only special ones may lie beyond the embedding: no ordinary text has them, and tokenize refuses what does.
    """
    from transformers import AutoConfig, AutoTokenizer

    import sae_atlas.base_models.restoration  # noqa: F401 - makes its architecture known to transformers

    plain = {"trust_remote_code": False, "local_files_only": True}
    try:
        config = AutoConfig.from_pretrained(folder, **plain)
        text = config.get_text_config(decoder=True)
        words = AutoTokenizer.from_pretrained(folder, **plain)
        # Without its files transformers makes a tokenizer of special tokens alone.
        if not set(words.get_vocab()) - set(words.all_special_tokens):
            raise ValueError("its vocabulary is empty")
        missing, special = without_embedding(words, text.vocab_size), special_ids(words)
    except Exception as error:  # what lacks or is damaged shows as errors of many libraries
        if getattr(error, "errno", None) in DISK_ERRORS:
            raise
        raise AtlasError(
            f"base_model: {folder}: its config.json or its tokenizer does not load ({reason(error)}); the folder must have "
            "both, in transformers format"
        ) from error
    start = start_token(words)
    if start in missing or missing.keys() - special:
        raise AtlasError(
            f"base_model: its tokenizer has ids up to {max(missing)}, its embedding {text.vocab_size} rows; give the folder "
            "the tokenizer that the model was trained with (of a model on the hub: a copy of it, with source `local`)"
        )
    if missing:
        logger.info(
            "special tokens without a row of the embedding, which no text may have: %s", listed(missing.values())
        )
    return {
        "architecture": config.model_type,
        "d_model": text.hidden_size,
        "vocabulary": text.vocab_size,
    }
