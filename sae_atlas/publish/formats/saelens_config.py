"""cfg.json of SAELens: one of version 2 to 5 as version 6 has it, and which of its keys say what the SAE computes."""

from pathlib import Path

from sae_atlas.io.errors import AtlasError

NAMES = {  # since version 3 -> before
    "hook_name": "hook_point",
    "hook_layer": "hook_point_layer",
    "hook_head_index": "hook_point_head_index",
    "training_tokens": "total_training_tokens",
    "activation_fn": "activation_fn_str",
}
READ = (
    "architecture", "d_in", "d_sae", "k", "apply_b_dec_to_input", "rescale_acts_by_decoder_norm", "metadata",
    "normalize_activations", "reshape_activations", "finetuning_scaling_factor",
)  # fmt: skip
# The values of `metadata` that we compute: it says what was read, and may say one of several heads.
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
# More of them before version 6, when the whole configuration of the training run was written.
HARMLESS_BEFORE_6 = (
    "hook_eval", "hook_point_eval", "streaming", "is_dataset_tokenized", "use_cached_activations",
    "cached_activations_path", "expansion_factor", "normalize_sae_decoder", "noise_scale", "from_pretrained_path",
    "decoder_orthogonal_init", "decoder_heuristic_init", "decoder_heuristic_init_norm",
    "init_encoder_as_decoder_transpose", "n_batches_in_buffer", "finetuning_tokens", "finetuning_method",
    "store_batch_size", "store_batch_size_prompts", "train_batch_size", "train_batch_size_tokens", "act_store_device",
    "autocast", "autocast_lm", "compile_llm", "llm_compilation_mode", "compile_sae", "sae_compilation_mode",
    "adam_beta1", "adam_beta2", "scale_sparsity_penalty_by_decoder_norm", "lr_scheduler_name", "lr_warm_up_steps",
    "lr_end", "lr_decay_steps", "n_restart_cycles", "feature_sampling_window", "feature_sampling_method",
    "feature_reinit_scale", "resample_batches", "dead_feature_window", "dead_feature_estimation_method",
    "dead_feature_threshold", "n_eval_batches", "eval_batch_size_prompts", "log_to_wandb",
    "log_activations_store_to_wandb", "log_optimizer_state_to_wandb", "wandb_project", "wandb_id", "wandb_entity",
    "wandb_log_frequency", "eval_every_n_wandb_logs", "run_name", "resume", "n_checkpoints", "checkpoint_path",
    "verbose", "model_kwargs", "tokens_per_buffer",
)  # fmt: skip


def as_in_6(path: Path, config: dict, registered: dict | None) -> dict:
    """The config with `metadata`, and with what the registry says beside it (publish.formats.load.read) in place.

    Before version 6 all keys lay side by side. Raises AtlasError for one that does not say how its model was processed, and is
    not in the registry, which says it.
    """
    overrides = (registered or {}).get("config_overrides") or {}
    if "metadata" in config:
        metadata = config["metadata"] or {}
        own = {key: value for key, value in overrides.items() if key in config}
        return {**config, **own, "metadata": {**metadata, **overrides}}
    if "model_from_pretrained_kwargs" not in config and registered is None:
        raise AtlasError(
            f"{path}: written by SAELens before 6, and does not say how its model was processed; "
            "load and save it with SAELens 6 first"
        )
    flat = {**config, **overrides}
    for name, before in NAMES.items():
        if before in flat:
            flat.setdefault(name, flat.pop(before))
    topk = {"architecture": "topk", **(flat.get("activation_fn_kwargs") or {})}
    named = topk if flat.get("activation_fn") == "topk" else {}
    on_heads = "hook_z" in str(flat.get("hook_name"))
    defaults = {"architecture": "standard", "reshape_activations": "hook_z" if on_heads else "none"}
    of_the_sae = {key: value for key, value in flat.items() if key not in HARMLESS_BEFORE_6}
    return {**defaults, **of_the_sae, **named, "metadata": flat}
