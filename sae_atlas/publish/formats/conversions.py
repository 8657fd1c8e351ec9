"""What SAELens' registry of published SAEs (pretrained_saes.yaml) lists, in our formats."""

CLT = "a cross-layer transcoder writes to all later layers, and one layer of it predicts none of them"
TEMPORAL = "its latents depend on the tokens before; an SAE here reads one token alone"

# SAELens' name of the function that reads an entry (None: its own format) -> our format, or the sentence why there is none
CONVERSIONS: dict[str | None, str] = {
    None: "saelens",
    "sae_lens": "saelens",
    "gemma_2": "gemma_scope",
    "gemma_2_transcoder": "gemma_scope",
    "gemma_3": "gemma_scope_2",
    "llama_scope": "llama_scope",
    "llama_scope_r1_distill": "llama_scope_r1_distill",
    "dictionary_learning_1": "dictionary_learning",
    "sparsify": "sparsify",
    "qwen_scope": "qwen_scope",
    "mwhanna_transcoder": "circuit_tracer",
    "goodfire": "goodfire",
    "deepseek_r1": "deepseek_r1",
    "connor_rob_hook_z": "connor_rob_hook_z",
    "mntss_clt_layer_transcoder": CLT,
    "temporal": TEMPORAL,
}
