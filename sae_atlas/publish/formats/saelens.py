"""SAELens: a folder with cfg.json and sae_weights.safetensors {W_enc [d_in, d_sae], b_enc, W_dec [d_sae, d_in], b_dec}."""

from pathlib import Path

import torch
from torch import Tensor

from sae_atlas.config.layouts import OURS, THRESHOLD, Layout, of_transcoder, products, shapes_of
from sae_atlas.config.published import stated_sizes
from sae_atlas.io.errors import AtlasError
from sae_atlas.publish.formats.foreign import (
    FOLDS,
    active,
    check_stated,
    checkpoint,
    read_config,
    read_safetensors,
    refuse_unknown,
    require,
    scaled,
    site_and_layer,
    weights,
    with_target,
)
from sae_atlas.publish.formats.revisions import stated_revision
from sae_atlas.publish.formats.saelens_config import HARMLESS, ONLY_READ, READ, as_in_6
from sae_atlas.publish.formats.saelens_pair import FILES, NEVER_EARLY, PURSUIT, TRANSCODERS, write_pair
from sae_atlas.saes.sae import Sae

PLAIN = products(*OURS)
SHAPES = shapes_of(PLAIN)
GATES: Layout = {name: (name, ("d_sae",)) for name in ("b_gate", "b_mag", "r_mag")}  # in place of b_enc
SKIP: Layout = {"W_skip": ("W_skip", ("d_out", "d_in"))}
FACTOR: Layout = {"factor": ("scaling_factor", ("d_sae",))}  # of latents before they are decoded, learnt afterwards
AVERAGE = "expected_average_only_in"
PER_TOKEN = ("none", False, None, "layer_norm", "constant_norm_rescale")
NORMS = (*PER_TOKEN, True, AVERAGE)  # True: AVERAGE, before version 3
# architecture -> why its latents are not computed here
REFUSED = {
    "temporal": "its latents depend on the tokens before; an SAE here reads one token alone",
}
# SAELens' defaults for matching pursuit.
USUAL = {"residual_threshold": 1e-2, "stop_on_duplicate_support": True, "max_iterations": None}


def write(folder: str | Path, sae: Sae, metadata: dict) -> None:
    """The pair (saelens_pair.py). Raises AtlasError for a transcoder that SAELens cannot load."""
    if sae.is_transcoder and sae.k is not None:
        raise AtlasError(
            "SAELens has no TopK transcoder; choose sparsify, or safetensors where input and target differ in dimensions"
        )
    tensors = {name: getattr(sae, name).numpy() for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")}
    if sae.W_skip is not None:
        tensors["W_skip"] = sae.W_skip.numpy()
    write_pair(folder, tensors, sae.inference, sae.k, metadata, sae.is_transcoder, sae.token_norm)


def read(folder: str | Path, registered: dict | None = None) -> dict:
    """The checkpoint. registered: what SAELens' registry says beside the files (publish.formats.load.read).

    Raises AtlasError for a config that changes what the weights mean in a way we do not know.
    """
    folder = Path(folder)
    path, file = folder / FILES[0], folder / FILES[1]
    config = as_in_6(path, read_config(path), registered)
    name = config.get("architecture")
    if name in REFUSED:
        raise AtlasError(f"{path}: architecture {name!r} is not supported: {REFUSED[name]}")
    name = require(
        path, config, "architecture", ("standard", "topk", "abstopk", "jumprelu", "gated", PURSUIT, *TRANSCODERS)
    )
    if name == PURSUIT:
        config = _without_stops(path, USUAL | config)
    is_transcoder, (kind, has_skip) = name in TRANSCODERS, TRANSCODERS.get(name, (name, False))
    centred, token_norm, average = _understood(path, config, kind, is_transcoder)
    layout = dict(of_transcoder(PLAIN) if is_transcoder else PLAIN)
    if has_skip:
        layout |= SKIP
    if kind == "jumprelu":
        layout |= THRESHOLD
    if kind == "gated":
        del layout["b_enc"]
        layout |= GATES
    if kind == PURSUIT:
        del layout["W_enc"], layout["b_enc"]
    has_factor = bool(config.get("finetuning_scaling_factor"))
    tensors = weights(file, read_safetensors(file), {**layout, **(FACTOR if has_factor else {})}, later=FACTOR)
    if kind == PURSUIT:
        tensors |= {"W_enc": tensors["W_dec"], "b_enc": torch.zeros(len(tensors["W_dec"]))}
    check_stated(path, stated_sizes("saelens", config), _sizes(tensors, kind))
    check_stated(path, {"d_out": config.get("d_out")}, tensors["b_dec"].shape)
    _decode_with(file, tensors, tensors.pop("factor", None), has_factor)
    if average:
        tensors = scaled(tensors, _factor(path, registered))
    if kind == "gated":
        gates = (tensors.pop(each) for each in ("r_mag", "b_mag", "b_gate"))
        tensors |= dict(zip(("W_enc", "b_enc", "threshold"), ungated(tensors["W_enc"], *gates), strict=True))
    if kind == PURSUIT and config["max_iterations"] is None:
        config["max_iterations"] = tensors["W_dec"].shape[1]
    of_k = "max_iterations" if kind == PURSUIT else "k" if "topk" in kind else None
    k = active(path, config, of_k, len(tensors["W_dec"])) if of_k else None
    if "topk" in kind and config.get("rescale_acts_by_decoder_norm"):
        norms = tensors["W_dec"].norm(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        tensors |= {
            "W_enc": tensors["W_enc"] * norms,
            "b_enc": tensors["b_enc"] * norms[:, 0],
            "W_dec": tensors["W_dec"] / norms,
        }
    if kind == "abstopk":
        tensors |= both_signs(tensors)
    about = config["metadata"]
    activations = site_and_layer(path, "hook_name", about.get("hook_name"), about.get("hook_layer"))
    if folded := _folded(path, about, is_transcoder):
        activations |= {"folded": folded}
    if is_transcoder:
        activations = with_target(path, "hook_name_out", about.get("hook_name_out"), activations)
    return checkpoint(
        **tensors,
        architecture={"standard": "relu", "abstopk": "topk"}.get(kind, kind),
        k=k,
        centred=centred,
        is_transcoder=is_transcoder,
        token_norm=token_norm,
        activations=activations | {"base_model": _base_model(about)},
        tokens=about.get("training_tokens"),
        stated=about,
    )


def _understood(path: Path, config: dict, kind: str, is_transcoder: bool) -> tuple[bool, str | None, bool]:
    """(does the encoder read x - b_dec, token_norm, was it trained on activations of an average norm?) of a config that holds
    nothing else that changes what is computed. Raises AtlasError for one that does.
    """
    about, model = config["metadata"], _loaded_with(config["metadata"])
    function = "topk" if "topk" in kind else "relu"
    only_read = ONLY_READ | ({} if is_transcoder else {"hook_name_out": (None, about.get("hook_name"))})
    on_heads = _reads_heads(about)  # flattened, they are what the site of all heads is
    only = {
        **{key: (function, None) for key in ("activation_fn", "activation_fn_str")},
        "reshape_activations": ("none", None, *(["hook_z"] if on_heads else [])),
        "finetuning_scaling_factor": (False, None) if kind == PURSUIT else (False, None, True),
        "rescale_acts_by_decoder_norm": (False, True, None) if "topk" in kind else (False, None),
    }
    for said, keys in ((config, only), (about, only_read)):
        for key, allowed in keys.items():
            require(path, said, key, allowed)
    norms = NORMS[:3] if is_transcoder else PER_TOKEN if kind == PURSUIT else NORMS
    norm = require(path, config, "normalize_activations", norms)
    # TransformerLens can take the mean out of all that is written to the stream; transformers has the stream as it is.
    centre = require(path, model, "center_writing_weights", (False, None) if is_transcoder else (False, True, None))
    if centre and norm == "constant_norm_rescale":
        raise AtlasError(f"{path}: normalize_activations {norm!r} is not supported with center_writing_weights")
    reads = (False,) if is_transcoder else (True,) if kind == PURSUIT else (True, False)
    centred = require(path, config, "apply_b_dec_to_input", reads)
    of_kind = ["d_out"] if is_transcoder else USUAL if kind == PURSUIT else ()
    refuse_unknown(path, config, (*READ, *only, *HARMLESS, *of_kind))
    if norm in ("layer_norm", "constant_norm_rescale"):
        return centred, norm, False
    # The heads are not of the stream: they are the same in a model whose stream has no mean.
    return centred, "centre" if centre and not on_heads else None, norm in (True, AVERAGE)


def _without_stops(path: Path, config: dict) -> dict:
    """The config. Raises AtlasError for a matching pursuit that may take fewer latents than its max_iterations."""
    if stops := [f"{key} {config[key]}" for key, never in NEVER_EARLY.items() if config[key] != never]:
        raise AtlasError(
            f"{path}: may stop before its max_iterations latents ({', '.join(stops)}); of matching pursuit only such SAEs are "
            "read that always take them all"
        )
    return config


def _loaded_with(about: dict) -> dict:
    """The settings with which the model was loaded."""
    return about.get("model_from_pretrained_kwargs") or {}


def _reads_heads(about: dict) -> bool:
    return str(about.get("hook_name")).endswith("hook_z")


def _folded(path: Path, about: dict, is_transcoder: bool) -> list[str]:
    """Which of FOLDS took biases out of the heads that it reads. Raises AtlasError for heads that were changed otherwise."""
    if not _reads_heads(about):
        return []
    model = _loaded_with(about)
    require(path, model, "refactor_factored_attn_matrices", (False, None))
    require(path, model, "fold_value_biases", (False, None) if is_transcoder else (False, True, None))
    return [name for name in FOLDS if model.get(name)] if model.get("fold_value_biases") else []


def _base_model(about: dict) -> dict:
    """What the file says of it: its name, and revision and hashes of weights where they are stated."""
    name, weights = about.get("model_name"), about.get("model_weights_sha256")
    revision = stated_revision(name, _loaded_with(about)) or about.get("model_revision")
    stated = {"revision": str(revision)} if revision else {}
    return {"source": name, **stated} | ({"weights_sha256": weights} if isinstance(weights, dict) else {})


def _sizes(tensors: dict[str, Tensor], kind: str) -> tuple[int, int]:
    d_sae, d_in = tensors["W_enc"].shape
    return 2 * d_sae if kind == "abstopk" else d_sae, d_in


def _decode_with(file: Path, tensors: dict[str, Tensor], factor: Tensor | None, is_stated: bool) -> None:
    """Multiply the decoder's rows by the factors of their latents. Raises AtlasError for such that the config denies."""
    if factor is None or torch.all(factor == 1):
        return
    if not is_stated:
        raise AtlasError(
            f"{file}: scaling_factor is not 1, but finetuning_scaling_factor of {FILES[0]} does not say that it counts; "
            "correct one of them"
        )
    tensors["W_dec"] = tensors["W_dec"] * factor[:, None]


def _factor(path: Path, registered: dict | None) -> float:
    factor = (registered or {}).get("norm_scaling_factor")
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < float("inf"):
        raise AtlasError(
            f"{path}: normalize_activations {AVERAGE!r} is not supported: neither the file nor the registry states the factor; "
            "fold it into the weights with SAELens"
        )
    return float(factor)


def both_signs(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the TopK SAE of an AbsTopK one (arXiv 2510.00404), whose k latents of the largest |z| keep their sign.

    Latent j becomes two: j, active where z_j > 0, and d_sae + j, which is |z_j| where z_j < 0. The k largest are the same.
    """
    return {name: torch.cat([tensors[name], -tensors[name]]) for name in ("W_enc", "b_enc", "W_dec")}


def ungated(encoder, r_mag, b_mag, b_gate):
    """(encoder, bias, threshold) of the JumpReLU that equals a Gated SAE (sae_atlas/saes/gated.py)."""
    gain = r_mag.exp()
    return encoder * gain[:, None], b_mag, b_mag - gain * b_gate
