"""What is wrong with a config's model before its weights are read: its family, sizes, tokenizer, positions, and the site.

Measured on a few random layers made from its config.json; measured again on the weights when the model is prepared and used.
"""

import copy
import json
import sys
from contextlib import suppress
from pathlib import Path

from sae_atlas.base_models.adapters import model_files
from sae_atlas.base_models.from_hub import TEXTS
from sae_atlas.config.layers import model_config, transformers_config
from sae_atlas.config.own_models import base_of
from sae_atlas.io.asking import Unanswered, ask
from sae_atlas.io.errors import AtlasError, nearest, reason
from sae_atlas.io.hub import complete_snapshot
from sae_atlas.io.log import logger
from sae_atlas.own_arrays.files import find_layers
from sae_atlas.training.recipe import contradictions

LAYERS = 4  # the most that are made; one of each kind that the config lists
PARAMETERS = 20_000_000  # the most that are made at the model's own width
VOCABULARY = 512
MOST = 300_000_000  # parameters: with more, the measurement waits for the weights
HEADS = 4  # of a narrow model
EXPERTS = 8  # that a narrow model's MLPs choose from
SCALED = (  # with the number of heads
    "hidden_size",
    "intermediate_size",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
    "mamba_n_heads",
    "mamba_d_ssm",
)
ROOMS = (
    "sites",
    "plan/site_check.py",
    "config/layers.py",
    "base_models/prepare.py",
    "base_models/load.py",
    "corpus.py",
)
UNKNOWN = {"problem": None, "width": None, "unmeasured": None}
LONGEST = 2048  # tokens that are tried on random layers
SEED = 0


class Unmeasured(Exception):
    """No random layers could be made or run, and why."""


def check_config(config: dict, file: str) -> None:
    """Raise AtlasError, with the config's file, for a model that does not fit this config, as far as that is known by now.

    Of a model that is not here yet the jobs that fetch it tell.
    """
    checks = {"activations": _of_arrays, "synthetic": _of_worlds}
    answer = UNKNOWN | checks.get(config["base_model"]["source"], _of_model)(config)
    if answer["unmeasured"]:
        logger.warning("the site is not measured before the run (%s); the weights will tell", answer["unmeasured"])
    problems = [answer["problem"]] if answer["problem"] else []
    if answer["width"]:
        for name, recipe in config["recipes"].items():
            problems += [f"recipes.{name}.{line}" for line in contradictions(recipe, answer["width"])]
    if problems:
        raise AtlasError("\n".join(f"{file}: {problem}" for problem in problems))


def _of_arrays(config: dict) -> dict:
    """The answer (model_answer) of saved activations: shapes, types, a sample of their values, and as many rows as are needed
    and have a text.
    """
    from sae_atlas.own_arrays.read import check_sample, common_shape
    from sae_atlas.row_corpus import contexts_of
    from sae_atlas.stages.corpus import row_texts_of
    from sae_atlas.texts.labels import Labels

    corpus = config["corpus"]
    try:
        locations = find_layers(config["base_model"]["path"])
        chosen = {layer: locations[layer] for layer in config["activations"]["layers"]}
        shape = common_shape(chosen)
        check_sample(chosen)
        contexts_of(shape.rows, corpus["context"], corpus["held_out_tokens"], corpus["tokens"])
        Labels(row_texts_of(corpus), shape.rows, corpus["context"])
    except AtlasError as error:
        return {"problem": str(error)}
    return {"width": shape.width}


def _of_worlds(config: dict) -> dict:
    """The same of synthetic rows, of which there are as many as are needed."""
    return {"width": config["base_model"]["generator"]["d"]}


def _of_model(config: dict) -> dict:
    activations, corpus = config["activations"], config["corpus"]
    sites = [activations[key] for key in ("site", "target") if key in activations]
    asked = {"sites": sites, "layers": activations["layers"], "context": corpus["context"]}
    return model_answer(config["base_model"], **asked, exclude=corpus.get("exclude", []))


def model_answer(base_model: dict, sites: list[str], layers: list[int], context: int, exclude: list[str]) -> dict:
    """`problem`: what is wrong with a config's model, the sites in these layers of it, contexts of so many tokens, or tokens
    that are to be left out, in one line; None where nothing is known to be. `width`: of the first site's activations, where
    it is known. `unmeasured`: why the sites could not be measured.

    base_model: the config's section; without its config.json nothing is known.
    """
    try:
        sizes = model_config(base_model)
    except AtlasError:
        return UNKNOWN
    question = [base_model, sites, layers, context, exclude]
    try:
        return UNKNOWN | ask("sae_atlas.plan.site_check", question, lambda: [sizes, _state(base_of(base_model))], ROOMS)
    except Unanswered as error:
        return UNKNOWN | {"unmeasured": str(error)}


def _state(section: dict) -> list:
    """Sizes and times of a local model's files, whose tokenizer may be another when one changes; of one on the hub where its
    tokenizer lies, if that was fetched.
    """
    if section["source"] == "hub":
        return [str(_cached(section))]
    if section["source"] != "local":
        return []
    files = model_files(section["path"], "base_model.path")
    return [[name, file.stat().st_size, file.stat().st_mtime_ns] for name, file in files.items()]


def _cached(section: dict) -> Path | None:
    """The folder of a hub's model in the cache of the hub's client; None unless its config and tokenizer are there, whole."""
    return complete_snapshot(section["id"], section.get("revision"), "model", TEXTS)


def _folder(section: dict) -> Path | None:
    """Where a model's config and tokenizer lie, fetched if need be; None of models that are made, and where they cannot be had:
    the jobs that fetch the weights fetch them, too, and tell.
    """
    if section["source"] == "local":
        return Path(section["path"]).expanduser()
    if section["source"] != "hub":
        return None
    if cached := _cached(section):
        return cached
    from huggingface_hub import snapshot_download

    with suppress(Exception):  # the hub's client raises errors of many libraries
        snapshot_download(section["id"], revision=section.get("revision"), allow_patterns=TEXTS)
    return _cached(section)


def random_layers(config, layers: list[int]):
    """A model in float32 of a few layers of this config, one of each kind among `layers`, with random weights.

    Its vocabulary is cut, and beyond PARAMETERS its heads and widths are too. Matrices are drawn anew, and vectors moved from
    where they begin, for some families begin with zeros. Raises Unmeasured where none can be made of a size that pays.
    """
    import torch
    from transformers import AutoModelForCausalLM

    why = []
    for narrower in (False, True):
        small = _shortened(config, layers)
        try:
            if narrower:
                _narrow(small.get_text_config())
            with torch.device("meta"):
                size = sum(weight.numel() for weight in AutoModelForCausalLM.from_config(small).parameters())
            if size > (MOST if narrower else PARAMETERS):
                why.append(f"{size / 1e6:,.0f} million parameters in a few {'narrow ' * narrower}layers")
                continue
            model = AutoModelForCausalLM.from_config(small, dtype=torch.float32).eval()
        except Exception as error:  # a family that does not allow these sizes raises errors of any kind
            why.append(reason(error.__cause__ or error))
            continue
        generator = torch.Generator().manual_seed(SEED)
        with torch.no_grad():
            for weight in model.parameters():
                drawn = torch.randn(weight.shape, generator=generator)
                weight.copy_(0.5 * weight.shape[-1] ** -0.5 * drawn if weight.ndim > 1 else weight + 0.1 * drawn)
        return model
    raise Unmeasured("; ".join(dict.fromkeys(why)))


def _answer(base_model: dict, sites: list[str], layers: list[int], context: int, exclude: list[str]) -> dict:
    """In a process with torch: the tokenizer, the sizes, then the sites."""
    from sae_atlas.base_models.prepare import checked_sizes

    section = base_of(base_model)
    try:
        if folder := _folder(section):
            checked_sizes(folder)
            _check_excluded(folder, exclude)
        config = transformers_config(base_model)
        _check_family(config)
        if section["source"] == "random":
            _check_sizes(section["sizes"], config)
        _check_positions(config, context)
        return {"width": _measured(config, sites, layers, context)}
    except Unmeasured as error:
        return {"unmeasured": str(error)}
    except AtlasError as error:
        return {"problem": str(error)}


def _check_excluded(folder: Path, exclude: list[str]) -> None:
    """Raise AtlasError for tokens to be left out that the tokenizer in a folder does not have."""
    from transformers import AutoTokenizer

    from sae_atlas.corpus import excluded_ids

    if exclude:
        excluded_ids(AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True), exclude)


def _check_family(config) -> None:
    """Raise AtlasError for a family that transformers has no causal language model of."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise AtlasError(
            f"base_model: transformers has no causal language model of the family {config.model_type}; take one, or of a model "
            "of text and images its language model alone"
        )


def _check_sizes(sizes: dict, config) -> None:
    """Raise AtlasError for sizes that the family does not know, or of which no model can be made."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    plain = AutoConfig.for_model(config.model_type)
    known = {*plain.to_dict(), *plain.attribute_map}
    for name in sizes:
        if name not in known:
            raise AtlasError(f"base_model.sizes.{name}: {config.model_type} has no such size; {nearest(name, known)}")
    try:
        with torch.device("meta"):
            AutoModelForCausalLM.from_config(config)
    except Exception as error:  # raised by the family's own code
        raise AtlasError(f"base_model.sizes: no model can be made of them ({reason(error)}); correct them") from error


def _check_positions(config, context: int) -> None:
    text = config.get_text_config(decoder=True)
    positions = getattr(text, "max_position_embeddings", None) or getattr(text, "max_target_positions", None)
    if isinstance(positions, int) and context > positions:
        raise AtlasError(f"corpus.context: {context} is more than the {positions} positions of the model; lower it")


def _measured(config, sites: list[str], layers: list[int], context: int) -> int | None:
    """The first site's width on random layers, if they are as wide as the model.

    Raises AtlasError for what they measure as wrong, and Unmeasured where they cannot be made or measured.
    """
    import torch

    from sae_atlas.sites.hooks import capture, check_site, transcode
    from sae_atlas.sites.measure import measure
    from sae_atlas.sites.trace import forward_pass

    model = random_layers(config, layers)
    tokens = torch.ones(1, context if context <= LONGEST else 1, dtype=torch.long)
    try:
        for site in sites:
            check_site(model, site, list(range(len(measure(model).blocks))), {})
        if len(sites) > 1:
            with torch.inference_mode(), transcode(model, *sites, 0, lambda _, target: target):
                forward_pass(model, tokens[:, :1])
    except AtlasError as error:
        raise AtlasError(f"{error} (measured on random layers made from its config)") from error
    except Exception as error:  # of the cut sizes, perhaps: the weights will tell
        raise Unmeasured(reason(error)) from error
    try:
        with torch.inference_mode(), capture(model, sites[0], [0], stop=False) as captured:
            forward_pass(model, tokens, last_only=True)
    except (RuntimeError, IndexError, ValueError) as error:
        raise AtlasError(
            f"corpus.context: the model does not read {context} tokens at once ({reason(error)}); lower it"
        ) from error
    same = model.config.get_text_config().hidden_size == config.get_text_config().hidden_size
    return captured[0].shape[-1] if same else None


def _shortened(config, layers: list[int]):
    """The config with a layer of each kind: what it lists for every layer is cut to theirs."""
    small = copy.deepcopy(config)
    text = small.get_text_config()
    count = text.num_hidden_layers
    listed = {name: value for name, value in vars(text).items() if isinstance(value, list) and len(value) == count}
    kinds = {}
    for layer in layers:
        kinds.setdefault(str([value[layer] for value in listed.values()]), layer)
    chosen = sorted(list(dict.fromkeys([*kinds.values(), *layers]))[:LAYERS])
    for name, value in listed.items():
        setattr(text, name, [value[layer] for layer in chosen])
    text.num_hidden_layers = len(chosen)
    text.vocab_size = min(text.vocab_size, VOCABULARY)
    if hasattr(text, "decoder_layers"):
        text.decoder_layers = len(chosen)
    if getattr(text, "pad_token_id", None) is not None:
        text.pad_token_id = 0
    return small


def _narrow(text) -> None:
    """Four heads, and widths in proportion; heads keep their size. A few experts in one group."""
    heads = text.num_attention_heads
    keys = getattr(text, "num_key_value_heads", None) or heads
    fewer = min(heads, HEADS)
    text.num_attention_heads = fewer
    if hasattr(text, "num_key_value_heads"):
        text.num_key_value_heads = fewer if keys == heads else min(keys, fewer // 2)
    for name in SCALED:
        if isinstance(getattr(text, name, None), int):
            width = getattr(text, name) * fewer // heads
            setattr(text, name, width if width < 8 else width // 8 * 8)  # products of experts want widths of 16 bytes
    for name in ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"):
        if isinstance(getattr(text, name, None), int):
            setattr(text, name, min(EXPERTS, getattr(text, name)))
    for name, most in (("num_experts_per_tok", 2), ("moe_k", 2), ("n_group", 1), ("topk_group", 1)):
        if isinstance(getattr(text, name, None), int):
            setattr(text, name, min(most, getattr(text, name)))


if __name__ == "__main__":
    print(json.dumps(_answer(*json.load(sys.stdin))))
