"""Published SAEs of every format, forged: random weights in the files that a release has, as its own code would write them."""

from pathlib import Path

import numpy as np
import torch
import yaml
from random_saes import D_IN, D_OUT, D_SAE
from safetensors.torch import save_file
from torch import Tensor

from sae_atlas.config.layouts import LAYOUTS, Layout, linear, of_transcoder, products
from sae_atlas.io.files import write_json
from sae_atlas.saes.checkpoint import save_tensors

LAYER, K = 3, 5
HOOK = f"blocks.{LAYER}.hook_resid_post"
NORM = 2.0  # mean norm of activations: sqrt(D_IN) / NORM is 2


def weights(d_out: int = D_IN, seed: int = 0) -> dict[str, Tensor]:
    """W_enc, W_dec [d_sae, d], decoder rows of unit norm, thresholds above 0."""
    generator = torch.Generator().manual_seed(seed)
    decoder = torch.randn(D_SAE, d_out, generator=generator)
    return {
        "W_enc": torch.randn(D_SAE, D_IN, generator=generator),
        "b_enc": torch.randn(D_SAE, generator=generator),
        "W_dec": decoder / decoder.norm(dim=1, keepdim=True),
        "b_dec": torch.randn(d_out, generator=generator),
        "threshold": torch.rand(D_SAE, generator=generator) + 0.5,
    }


def named(layout: Layout, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names of a format, its matrices turned as it has them."""
    turned = {name: tensors[ours].T if sides[0] in ("d_in", "d_out") and len(sides) == 2 else tensors[ours]
              for ours, (name, sides) in layout.items()}  # fmt: skip
    return {name: tensor.contiguous().clone() for name, tensor in turned.items()}


def gemma_scope(folder: Path, is_transcoder: bool = False, **more) -> Path:
    tensors = named(_layout("gemma_scope", is_transcoder), weights(D_OUT if is_transcoder else D_IN)) | more
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "params.npz", **{name: tensor.numpy() for name, tensor in tensors.items()})
    return folder / "params.npz"


GEMMA_HOOKS = {
    "resid_post": ("output", "output"),
    "attn_out": ("self_attn.o_proj.input",) * 2,
    "mlp_out": ("post_feedforward_layernorm.output",) * 2,
    "transcoder": ("pre_feedforward_layernorm.output", "post_feedforward_layernorm.output"),
}


def gemma_scope_2(folder: Path, site: str = "resid_post", affine: bool = False, **changes) -> Path:
    """changes: of config.json."""
    is_transcoder = site == "transcoder"
    tensors = named(_layout("gemma_scope_2", is_transcoder), weights())
    if affine:
        tensors["affine_skip_connection"] = skip()
    config = {
        **{
            f"hf_hook_point_{side}": f"model.layers.{LAYER}.{hook}"
            for side, hook in zip(("in", "out"), GEMMA_HOOKS[site], strict=True)
        },
        "width": D_SAE,
        "model_name": "google/gemma-3-1b-pt",
        "architecture": "jump_relu",
        "l0": 20,
        "affine_connection": affine,
        "type": "transcoder" if is_transcoder else "sae",
    }
    _write(folder, "config.json", config | changes, "params.safetensors", tensors)
    return folder


def skip() -> Tensor:
    """[d_in, d_out]: of x @ it."""
    return torch.randn(D_IN, D_IN, generator=torch.Generator().manual_seed(9))


def llama_scope(folder: Path, tensors: dict[str, Tensor] | None = None, **changes) -> Path:
    config = {
        "hook_point_in": HOOK,
        "hook_point_out": HOOK,
        "use_decoder_bias": True,
        "apply_decoder_bias_to_pre_encoder": False,
        "expansion_factor": D_SAE // D_IN,
        "d_model": D_IN,
        "d_sae": D_SAE,
        "norm_activation": "dataset-wise",
        "dataset_average_activation_norm": {"in": NORM, "out": NORM},
        "use_glu_encoder": False,
        "sparsity_include_decoder_norm": True,
        "act_fn": "jumprelu",
        "jump_relu_threshold": 0.5,
        "top_k": 50,
        "dtype": "torch.bfloat16",
    }
    named_tensors = named(LAYOUTS["llama_scope"], tensors or weights())
    _write(folder, "hyperparams.json", config | changes, "checkpoints/final.safetensors", named_tensors)
    return folder


def llama_scope_r1_distill(folder: Path, tensors: dict[str, Tensor] | None = None, **changes) -> Path:
    config = {
        "sae_type": "sae",
        "hook_point_in": HOOK,
        "hook_point_out": HOOK,
        "d_model": D_IN,
        "expansion_factor": D_SAE // D_IN,
        "use_decoder_bias": True,
        "apply_decoder_bias_to_pre_encoder": False,
        "norm_activation": "dataset-wise",
        "sparsity_include_decoder_norm": True,
        "act_fn": "jumprelu",
        "top_k": 50,
    }
    tensors = tensors or weights()
    files = named(LAYOUTS["llama_scope_r1_distill"], tensors | {"threshold": tensors["threshold"].log()})
    files[f"dataset_average_activation_norm.{HOOK}"] = torch.tensor(NORM)
    _write(folder, "config.json", config | changes, "sae_weights.safetensors", files)
    return folder


def qwen_scope(folder: Path, **changes) -> Path:
    config = {"model_type": "topk_sae", "base_model": "Qwen/Qwen3-1.7B-Base", "d_model": D_IN, "d_sae": D_SAE, "k": K}
    write_json(folder / "config.json", config | {"num_layers": 28, "hook_point": "resid_post"} | changes)
    return _torch(folder / f"layer{LAYER}.sae.pt", "qwen_scope")


def goodfire(folder: Path) -> Path:
    return _torch(folder / "Llama-3.1-8B-Instruct-SAE-l19.pth", "goodfire")


def deepseek_r1(folder: Path) -> Path:
    return _torch(folder / "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt", "deepseek_r1")


def connor_rob_hook_z(folder: Path) -> Path:
    stem = f"gpt2-small_L{LAYER}_Hcat_z_lr1.20e-03_v9"
    write_json(
        folder / f"{stem}_cfg.json", {"act_size": D_IN, "dict_size": D_SAE, "act_name": f"blocks.{LAYER}.attn.hook_z"}
    )
    return _torch(folder / f"{stem}.pt", "connor_rob_hook_z")


def circuit_tracer(folder: Path, threshold: bool = False, **changes) -> Path:
    config = {"model_name": "Qwen/Qwen3-4B", "model_kind": "transcoder_set"}
    config |= {"feature_input_hook": "mlp.hook_in", "feature_output_hook": "hook_mlp_out"}
    wandb = {"d_model": {"value": D_IN}, "d_feature": {"value": D_SAE}, "batch_size": {"value": 64}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config | changes))
    (folder / "wandb-config.yaml").write_text(yaml.safe_dump(wandb))
    tensors = named(LAYOUTS["circuit_tracer"], weights())
    if threshold:
        tensors["activation_function.threshold"] = weights()["threshold"]
    save_file(tensors, folder / f"layer_{LAYER}.safetensors")
    return folder / f"layer_{LAYER}.safetensors"


DECODER_BIAS = {"AutoEncoder": "bias", "GatedAutoEncoder": "decoder_bias"}  # of the others it is b_dec
AS_PRODUCTS = ("JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE")


def dictionary_learning(folder: Path, dict_class: str, trainer_class: str) -> Path:
    """As SAEBench's and andyrdt's releases have it."""
    own, bias = weights(), DECODER_BIAS.get(dict_class, "b_dec")
    layout = (
        products("W_enc", "b_enc", "W_dec", bias)
        if dict_class in AS_PRODUCTS
        else (linear("encoder.weight", "encoder.bias", "decoder.weight", bias))
    )
    tensors = named(layout, own)
    if dict_class == "GatedAutoEncoder":
        del tensors["encoder.bias"]
        tensors |= {"r_mag": own["threshold"] / 4, "gate_bias": own["b_enc"], "mag_bias": own["b_enc"] / 2}
    if "BatchTopK" in dict_class:
        tensors |= {"k": torch.tensor(K), "threshold": torch.tensor(1.5)}
    if dict_class == "MatryoshkaBatchTopKSAE":
        tensors["group_sizes"] = torch.tensor([D_SAE // 2, D_SAE // 2])
    if dict_class == "JumpReluAutoEncoder":
        tensors["threshold"] = own["threshold"]
    trainer = {"trainer_class": trainer_class, "dict_class": dict_class, "activation_dim": D_IN, "dict_size": D_SAE}
    trainer |= {"layer": LAYER, "lm_name": "google/gemma-2-2b", "submodule_name": f"resid_post_layer_{LAYER}", "k": K}
    write_json(
        folder / "config.json", {"trainer": trainer, "buffer": {"d_submodule": D_IN, "io": "out", "ctx_len": 128}}
    )
    save_tensors(folder / "ae.pt", tensors)
    return folder


def saelens_before_6(folder: Path, version: int = 3, tensors: dict[str, Tensor] | None = None, **changes) -> Path:
    """A folder of SAELens with the flat cfg.json of version 2 or 3, in which the whole run was written."""
    keys = ("W_enc", "b_enc", "W_dec", "b_dec")
    own = weights() | (tensors or {})
    files = {name: (own[name].T if name == "W_enc" else own[name]).contiguous() for name in (*keys, *(tensors or {}))}
    config = {
        "model_name": "gpt2-small",
        "hook_point" if version < 3 else "hook_name": HOOK,
        "hook_point_layer" if version < 3 else "hook_layer": LAYER,
        "hook_point_head_index" if version < 3 else "hook_head_index": None,
        "dataset_path": "Skylion007/openwebtext",
        "is_dataset_tokenized": False,
        "context_size": 128,
        "use_cached_activations": False,
        "d_in": D_IN,
        "d_sae": D_SAE,
        "n_batches_in_buffer": 128,
        "total_training_tokens" if version < 3 else "training_tokens": 300_000_000,
        "dtype": "torch.float32",
        "device": "mps",
        "b_dec_init_method": "geometric_median",
        "expansion_factor": 32,
        "l1_coefficient": 8e-05,
        "lr_warm_up_steps": 5000,
        "train_batch_size": 4096,
        "feature_sampling_window": 1000,
        "dead_feature_threshold": 1e-06,
        "log_to_wandb": True,
        "run_name": "24576-L1-8e-05",
    }
    _write(folder, "cfg.json", config | changes, "sae_weights.safetensors", files)
    return folder


def _layout(kind: str, is_transcoder: bool) -> Layout:
    return of_transcoder(LAYOUTS[kind]) if is_transcoder else LAYOUTS[kind]


def _torch(path: Path, kind: str) -> Path:
    save_tensors(path, named(LAYOUTS[kind], weights()))
    return path


def _write(folder: Path, small: str, config: dict, large: str, tensors: dict[str, Tensor]) -> None:
    write_json(folder / small, config)
    (folder / large).parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / large)
