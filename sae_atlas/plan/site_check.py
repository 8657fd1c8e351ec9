"""Whether a model has the site that a config asks for, before its weights are read, and of a local one its tokenizer.

Measured on a few random layers made from its config.json; measured again on the weights when the model is prepared and used.
"""

import copy
import hashlib
import json
import os
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import sae_atlas
from sae_atlas.base_models.adapters import model_files
from sae_atlas.config.layers import model_config
from sae_atlas.config.made import base_of
from sae_atlas.io.errors import AtlasError, reason
from sae_atlas.io.files import write_json
from sae_atlas.io.log import logger
from sae_atlas.io.provenance import code_identity

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
PATIENCE = 120  # s that a run's start waits for the measurement
SEED = 0


def check_config(config: dict, file: str) -> None:
    """Raise AtlasError, with the config's file, for a local model whose tokenizer does not fit, or a model without this site.

    Of a model that is not here yet the jobs that fetch it tell.
    """
    activations = config["activations"]
    if problem := model_problem(config["base_model"], activations["site"], activations["layers"]):
        raise AtlasError(f"{file}: {problem}")


def model_problem(base_model: dict, site: str, layers: list[int]) -> str | None:
    """What is wrong with a config's model, or the site in these layers of it, in one line; None where nothing is known to be.

    base_model: the config's section; without its config.json nothing is known. The answer is kept in the user's cache
    folder, for it takes the import of torch and transformers.
    """
    try:
        sizes = model_config(base_model)
    except AtlasError:
        return None
    code = code_identity("sites", "plan/site_check.py", "base_models/prepare.py", "base_models/load.py")
    key = [sizes, site, layers, version("transformers"), code, _state(base_of(base_model))]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "sae-atlas"
    file = cache / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()}.json"
    try:
        return json.loads(file.read_text(encoding="utf-8"))["problem"]
    except (OSError, ValueError, KeyError):
        pass
    # In a process of its own: what reads the config stays as small as it is without torch.
    ours = [str(Path(sae_atlas.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    asked = [sys.executable, "-P", "-m", "sae_atlas.plan.site_check", json.dumps([base_model, site, layers])]
    settings = {"encoding": "utf-8", "env": os.environ | {"PYTHONPATH": os.pathsep.join(ours)}, "timeout": PATIENCE}
    try:
        done = subprocess.run(asked, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, **settings)
    except subprocess.SubprocessError:
        logger.warning("the site is not measured before the run; the weights will tell")
        return None
    problem = json.loads(done.stdout)
    with suppress(OSError):  # a home that cannot be written: it is measured again the next time
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"problem": problem})
    return problem


def _state(section: dict) -> list:
    """Sizes and times of a local model's files, whose tokenizer may be another when one changes."""
    if section["source"] != "local":
        return []
    files = model_files(section["path"], "base_model.path")
    return [[name, file.stat().st_size, file.stat().st_mtime_ns] for name, file in files.items()]


def transformers_config(base_model: dict):
    """The transformers config of a config's section `base_model`. Raises AtlasError if it cannot be had."""
    from transformers import AutoConfig

    from sae_atlas.base_models.restoration import read_restoration

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
    except (OSError, ValueError, TypeError) as error:
        raise AtlasError(f"base_model: its config cannot be had ({reason(error)}); check source and network") from error


def random_layers(config, layers: list[int]):
    """A model in float32 of a few layers of this config, one of each kind among `layers`, with random weights.

    Its vocabulary is cut, and beyond PARAMETERS its heads and widths are too. None where it cannot be made of a size that
    pays. Matrices are drawn anew, and vectors moved from where they begin, for some families begin with zeros.
    """
    import torch
    from transformers import AutoModelForCausalLM

    for narrower in (False, True):
        small = _shortened(config, layers)
        try:
            if narrower:
                _narrow(small.get_text_config())
            with torch.device("meta"):
                size = sum(weight.numel() for weight in AutoModelForCausalLM.from_config(small).parameters())
            if size > (MOST if narrower else PARAMETERS):
                continue
            model = AutoModelForCausalLM.from_config(small, dtype=torch.float32).eval()
        except Exception:  # a family that does not allow these sizes raises errors of any kind
            continue
        generator = torch.Generator().manual_seed(SEED)
        with torch.no_grad():
            for weight in model.parameters():
                drawn = torch.randn(weight.shape, generator=generator)
                weight.copy_(0.5 * weight.shape[-1] ** -0.5 * drawn if weight.ndim > 1 else weight + 0.1 * drawn)
        return model
    return None


def _problem(base_model: dict, site: str, layers: list[int]) -> str | None:
    """In a process with torch: the tokenizer, then the site."""
    from sae_atlas.base_models.prepare import checked_sizes

    section = base_of(base_model)
    if section["source"] == "local":
        try:
            checked_sizes(Path(section["path"]).expanduser())
        except AtlasError as error:
            return str(error)
    return _measured(transformers_config(base_model), site, layers)


def _measured(config, site: str, layers: list[int]) -> str | None:
    from sae_atlas.sites.hooks import check_site
    from sae_atlas.sites.measure import measure

    model = random_layers(config, layers)
    if model is None:
        return None
    try:
        check_site(model, site, list(range(len(measure(model).blocks))), {})
    except AtlasError as error:
        return f"{error} (measured on random layers made from its config)"
    except Exception as error:  # of the cut sizes, perhaps: the weights will tell
        logger.info("the site is not measured before the run (%s)", reason(error))
    return None


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
    section, asked_site, chosen = json.loads(sys.argv[1])
    print(json.dumps(_problem(section, asked_site, chosen)))
