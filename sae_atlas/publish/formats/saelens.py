"""SAELens 6: a folder with cfg.json and sae_weights.safetensors {W_enc [d_in, d_sae], b_enc, W_dec [d_sae, d_in], b_dec}."""

from pathlib import Path

import torch

from sae_atlas.config.published import stated_sizes
from sae_atlas.io.errors import AtlasError
from sae_atlas.publish.formats.foreign import (
    active,
    check_stated,
    checked,
    checkpoint,
    read_config,
    read_safetensors,
    refuse_unknown,
    require,
    site_and_layer,
    with_target,
)
from sae_atlas.publish.formats.saelens_pair import FILES, TRANSCODERS, write_pair
from sae_atlas.saes.sae import Sae

SHAPES = {"W_enc": ("d_in", "d_sae"), "b_enc": ("d_sae",), "W_dec": ("d_sae", "d_in"), "b_dec": ("d_in",)}
OF_TRANSCODERS = SHAPES | {"W_dec": ("d_sae", "d_out"), "b_dec": ("d_out",)}
READ = ("architecture", "d_in", "d_sae", "k", "apply_b_dec_to_input", "rescale_acts_by_decoder_norm", "metadata")
# Keys with the values of them that we compute; the first is meant where the key is absent. Before version 6 there were more.
ONLY = {
    "normalize_activations": ("none", False, None),
    "reshape_activations": ("none", None),
    "finetuning_scaling_factor": (False, None),
}
# The same of `metadata`, which says what was read: one of several heads, another hook that is predicted.
ONLY_READ = {"hook_head_index": (None,), "hook_head_index_out": (None,)}
# Keys of the machine and of training, and those of `metadata`, which ONLY_READ checks.
HARMLESS = (
    "dtype", "device", "seed", "lr", "l1_coefficient", "lp_norm", "l1_warm_up_steps", "l0_coefficient",
    "l0_warm_up_steps", "target_l0", "jumprelu_init_threshold", "jumprelu_bandwidth", "jumprelu_sparsity_loss_mode",
    "jumprelu_tanh_scale", "jumprelu_ste_to_input", "pre_act_loss_coefficient", "aux_loss_coefficient",
    "topk_threshold_lr", "matryoshka_widths", "use_matryoshka_aux_loss", "use_sparse_activations",
    "decoder_init_norm", "noise_standard_deviation", "sparsity", "b_dec_init_method", "mse_loss_normalization",
    "use_ghost_grads", "model_name", "model_class_name", "hook_name", "hook_layer", "hf_hook_name", "dataset_path",
    "dataset_trust_remote_code", "context_size", "seqpos_slice", "prepend_bos", "exclude_special_tokens",
    "training_tokens", "neuronpedia_id", "sae_lens_version", "sae_lens_training_version", "activation_fn_kwargs",
    "model_from_pretrained_kwargs", "hook_head_index",
)  # fmt: skip


def write(folder: str | Path, sae: Sae, metadata: dict) -> None:
    """The pair (saelens_pair.py). Raises AtlasError for a transcoder that SAELens cannot load."""
    if sae.is_transcoder and sae.k is not None:
        raise AtlasError(
            "SAELens has no TopK transcoder; choose sparsify, or safetensors where input and target differ in dimensions"
        )
    tensors = {name: getattr(sae, name).numpy() for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")}
    if sae.W_skip is not None:
        tensors["W_skip"] = sae.W_skip.numpy()
    write_pair(folder, tensors, sae.inference, sae.k, metadata, sae.is_transcoder)


def read(folder: str | Path) -> dict:
    """The checkpoint. Raises AtlasError for a config that changes what the weights mean in a way we do not know."""
    folder = Path(folder)
    path, weights = folder / FILES[0], folder / FILES[1]
    config = _as_in_6(path, read_config(path))
    name = require(path, config, "architecture", ("standard", "topk", "jumprelu", "gated", *TRANSCODERS))
    is_transcoder, (kind, has_skip) = name in TRANSCODERS, TRANSCODERS.get(name, (name, False))
    only = ONLY | {key: ("topk" if kind == "topk" else "relu", None) for key in ("activation_fn", "activation_fn_str")}
    about, model = config["metadata"], config["metadata"].get("model_from_pretrained_kwargs") or {}
    only_read = ONLY_READ | ({} if is_transcoder else {"hook_name_out": (None, about.get("hook_name"))})
    for said, keys in ((config, only), (about, only_read)):
        for key, allowed in keys.items():
            require(path, said, key, allowed)
    # TransformerLens can take the mean out of all that is written to the stream; transformers has the stream as it is.
    require(path, model, "center_writing_weights", (False, None))
    centred = require(path, config, "apply_b_dec_to_input", (False,) if is_transcoder else (True, False))
    require(path, config, "rescale_acts_by_decoder_norm", (False, True, None) if kind == "topk" else (False, None))
    refuse_unknown(path, config, (*READ, *only, *HARMLESS, *(["d_out"] if is_transcoder else [])))
    shapes = dict(OF_TRANSCODERS if is_transcoder else SHAPES)
    if has_skip:
        shapes["W_skip"] = ("d_out", "d_in")
    if kind == "jumprelu":
        shapes["threshold"] = ("d_sae",)
    if kind == "gated":
        shapes = {name: shape for name, shape in SHAPES.items() if name != "b_enc"}
        shapes |= {"b_gate": ("d_sae",), "b_mag": ("d_sae",), "r_mag": ("d_sae",)}
    tensors = checked(weights, read_safetensors(weights), shapes, later={"scaling_factor": ("d_sae",)})
    if not torch.all(tensors.get("scaling_factor", torch.ones(1)) == 1):
        raise AtlasError(f"{weights}: scaling_factor is not 1; fold it into the decoder with the SAELens that wrote it")
    check_stated(path, stated_sizes("saelens", config), tensors["W_enc"].T.shape)
    check_stated(path, {"d_out": config.get("d_out")}, tensors["b_dec"].shape)
    encoder, decoder, threshold = tensors["W_enc"].T, tensors["W_dec"], tensors.get("threshold")
    bias = tensors.get("b_enc")
    if kind == "gated":
        encoder, bias, threshold = ungated(encoder, tensors["r_mag"], tensors["b_mag"], tensors["b_gate"])
    k = active(path, config, "k", len(decoder)) if kind == "topk" else None
    if kind == "topk" and config.get("rescale_acts_by_decoder_norm"):
        norms = decoder.norm(dim=1, keepdim=True).clamp(min=torch.finfo(decoder.dtype).tiny)
        encoder, bias, decoder = encoder * norms, bias * norms[:, 0], decoder / norms
    activations = site_and_layer(path, "hook_name", about.get("hook_name"), about.get("hook_layer"))
    if is_transcoder:
        activations = with_target(path, "hook_name_out", about.get("hook_name_out"), activations)
    return checkpoint(
        encoder,
        bias,
        decoder,
        tensors["b_dec"],
        "relu" if kind == "standard" else kind,
        k=k,
        threshold=threshold,
        centred=centred,
        is_transcoder=is_transcoder,
        W_skip=tensors.get("W_skip"),
        activations=activations | {"base_model": {"source": about.get("model_name")}},
        tokens=about.get("training_tokens"),
        stated=about,
    )


def _as_in_6(path: Path, config: dict) -> dict:
    """A config of version 3 to 5, in which all keys lie side by side, as version 6 has it; one of version 6 as it is."""
    if "metadata" in config:
        return {**config, "metadata": config["metadata"] or {}}
    if "model_from_pretrained_kwargs" not in config:
        raise AtlasError(
            f"{path}: written by SAELens before 6, and does not say how its model was processed; "
            "load and save it with SAELens 6 first"
        )
    topk = {"architecture": "topk", **(config.get("activation_fn_kwargs") or {})}
    named = topk if "topk" in (config.get("activation_fn"), config.get("activation_fn_str")) else {}
    return {"architecture": "standard", **config, **named, "metadata": config}


def ungated(encoder, r_mag, b_mag, b_gate):
    """(encoder, bias, threshold) of the JumpReLU that equals a Gated SAE (sae_atlas/saes/gated.py)."""
    gain = r_mag.exp()
    return encoder * gain[:, None], b_mag, b_mag - gain * b_gate
