"""The base model's own config: its sizes, its number of blocks, and which of them are named in `activations.layers`."""

import json
import sys
from functools import cache
from pathlib import Path

from sae_atlas.base_models.from_scratch import model_sizes
from sae_atlas.config.own_models import base_of
from sae_atlas.config.without_model import OF_ROWS
from sae_atlas.io.asking import Unanswered, ask
from sae_atlas.io.errors import AtlasError, reason
from sae_atlas.io.hub import refuse
from sae_atlas.own_arrays.files import find_layers

MOST = 9999  # blocks of a model
# Names that configs have for one thing, as transformers' attribute maps list them. Of an encoder-decoder the decoder is meant.
COUNTED = ("decoder_layers", "num_hidden_layers", "n_layer", "n_layers")
LAYERS = (*COUNTED, "num_layers")  # which may count parts of blocks
WIDTHS = ("hidden_size", "n_embd", "d_model", "dim")
VOCABULARIES = {"bytes": 257, "package": 49152}  # of the tokenizers that random models take


def named_layers(layers: str | list[int], base_model: dict) -> list[int]:
    """`all`, a range ("0-23") or a list as block indices. Raises AtlasError if the number of layers is not known."""
    if layers == "all":
        return layers_there(base_model)
    if isinstance(layers, str):
        first, last = map(int, layers.split("-"))
        return list(range(first, last + 1))
    return sorted(layers)


def layers_there(base_model: dict) -> list[int]:
    """All layers of the base model; of saved activations those that have a file, of synthetic rows those that are drawn.

    Raises AtlasError if that is not known.
    """
    if base_model["source"] == "synthetic":
        return list(range(base_model["generator"]["layers"]))
    if base_model["source"] == "activations":
        return list(find_layers(base_model["path"]))
    return list(range(count_layers(base_model)))


def layer_words(layers: list[int]) -> str:
    """`0 to 23`, or the list where layers are left out."""
    if layers == list(range(layers[0], layers[-1] + 1)) and len(layers) > 1:
        return f"{layers[0]} to {layers[-1]}"
    return ", ".join(map(str, layers))


def count_layers(base_model: dict) -> int:
    """Blocks of the base model, from its own config, or as transformers reads it. Raises AtlasError if neither tells."""
    config = text_part(model_config(base_model, also=", or list activations.layers (`0-23`)"))
    key, count = next(((name, config[name]) for name in COUNTED if name in config), ("num_hidden_layers", None))
    if count is None:
        try:
            count = ask("sae_atlas.config.layers", base_model, lambda: config, ("config/layers.py",))
        except Unanswered as error:
            raise AtlasError(
                f"activations.layers: the model's config does not say how many there are ({error}); list them (`0-23`)"
            ) from error
    if type(count) is int and 0 < count <= MOST:
        return count
    raise AtlasError(f"activations.layers: the model's config says {key} {str(count)[:40]!r}; list them")


def stated(base_model: dict, names: tuple[str, ...]) -> int | None:
    """What the base model's own config says under the first of `names` that it has; None where it is not at hand."""
    try:
        config = text_part(model_config(base_model, at_hand=True))
    except AtlasError:
        return None
    return next((config[name] for name in names if type(config.get(name)) is int and config[name] > 0), None)


def text_part(config: object) -> dict:
    """The part of a model's config about its language model, which is a section of its own in models of text and images."""
    return (config.get("text_config") or config) if isinstance(config, dict) else {}


def model_config(base_model: dict, also: str = "", at_hand: bool = False) -> dict:
    """The base model's own config, under transformers' names, read without torch and transformers where that can be.

    at_hand: nothing is fetched and nothing heavy imported. Raises AtlasError if it cannot be had; `also` goes into the line.
    """
    base_model = base_of(base_model)
    if base_model["source"] in OF_ROWS:
        raise AtlasError("base_model: of rows of numbers there is no model, and no config of one")
    if base_model["source"] == "package":
        from sae_atlas.base_models.packages import find_model

        return find_model(base_model["package"]).sizes
    if base_model["source"] in ("random", "pretrain"):
        from_scratch = base_model["source"] == "pretrain"
        sizes = model_sizes(base_model, context=0) if from_scratch else base_model["sizes"]  # of any length of contexts
        # Most families have an unembedding of their own unless told otherwise.
        family = {"model_type": base_model["architecture"], "tie_word_embeddings": False}
        return {**family, "vocab_size": VOCABULARIES[base_model["tokenizer"]], **sizes}
    if base_model["source"] == "restoration":
        if at_hand:
            raise AtlasError("base_model: its sizes are known once it is prepared")
        from sae_atlas.base_models.restoration import read_restoration

        return read_restoration(Path(base_model["path"]).expanduser()).config.to_dict()
    if base_model["source"] == "local":
        file = Path(base_model["path"]).expanduser() / "config.json"
        if not file.is_file():
            raise AtlasError(f"base_model.path: {file} is not there; give a folder in transformers format")
        return read_config_file(file)
    return _hub_config(base_model["id"], base_model.get("revision"), also, at_hand)


def transformers_config(base_model: dict):
    """The transformers config of a config's section `base_model`. Raises AtlasError if it cannot be had."""
    from transformers import AutoConfig

    from sae_atlas.base_models.restoration import read_restoration  # makes its architecture known to transformers, too

    section, settings = base_of(base_model), {"trust_remote_code": False}
    source = section["source"]
    try:
        if source == "restoration":
            return read_restoration(section["path"]).config
        if source == "local":
            return AutoConfig.from_pretrained(Path(section["path"]).expanduser(), local_files_only=True, **settings)
        if source == "hub":
            model_config(section)  # fetched, if it is not here
            return AutoConfig.from_pretrained(
                section["id"], revision=section.get("revision"), local_files_only=True, **settings
            )
        return AutoConfig.for_model(**{"bos_token_id": 0, "eos_token_id": 0, **model_config(section)})
    except AtlasError:
        raise
    except Exception as error:  # the library's checks of values raise errors of their own
        why = reason(error.__cause__ or error)  # what a check of values says is in the error that it was raised from
        if source in ("random", "pretrain"):
            raise AtlasError(f"base_model.sizes: no model can be made of them ({why}); correct them") from error
        raise AtlasError(f"base_model: its config cannot be had ({why}); check source and network") from error


def read_config_file(file: Path) -> dict:
    """A config.json. Raises AtlasError."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AtlasError(f"base_model: {file} is not readable ({reason(error)})") from error


@cache  # several sections need it, each by a call of the hub's client
def _hub_config(name: str, revision: str | None, also: str, at_hand: bool) -> dict:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    # Every start of a run asks; where the hub cannot be reached, its client tries for half a minute before it gives up.
    if isinstance(cached := try_to_load_from_cache(name, "config.json", revision=revision), str):
        return read_config_file(Path(cached))
    try:
        return read_config_file(Path(hf_hub_download(name, "config.json", revision=revision, local_files_only=at_hand)))
    except Exception as error:  # the hub's client raises errors of many libraries
        refuse(error, "base_model.id", name, revision, "config.json", also=also)


if __name__ == "__main__":  # asked by count_layers
    print(json.dumps(transformers_config(json.load(sys.stdin)).get_text_config(decoder=True).num_hidden_layers))
