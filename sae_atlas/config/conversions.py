"""Which of our formats reads what a conversion function of SAELens reads, or why none does."""

from typing import NamedTuple


class Conversion(NamedTuple):
    """format: one of config.published.FILES, None where the SAEs are not read. file: the SAE below its path in the list, `""`
    where that path is the SAE. refusal: where they are not read, why."""

    format: str | None
    file: str = ""
    refusal: str = ""


CLT = "a cross-layer transcoder writes to all later layers, and one layer of it predicts none of them"
TEMPORAL = "its latents depend on the tokens before; an SAE here reads one token alone"

CONVERSIONS: dict[str | None, Conversion] = {
    None: Conversion("saelens"),
    "sae_lens": Conversion("saelens"),
    "sparsify": Conversion("sparsify"),
    "dictionary_learning_1": Conversion("dictionary_learning"),
    "gemma_2": Conversion("gemma_scope", "params.npz"),
    "gemma_2_transcoder": Conversion("gemma_scope", "params.npz"),
    "gemma_3": Conversion("gemma_scope_2"),
    "qwen_scope": Conversion("qwen_scope"),
    "llama_scope": Conversion("llama_scope"),
    "llama_scope_r1_distill": Conversion("llama_scope_r1_distill"),
    "goodfire": Conversion("goodfire"),
    "deepseek_r1": Conversion("deepseek_r1"),
    "mwhanna_transcoder": Conversion("circuit_tracer"),
    "connor_rob_hook_z": Conversion("connor_rob_hook_z"),
    "mntss_clt_layer_transcoder": Conversion(None, refusal=CLT),
    "temporal": Conversion(None, refusal=TEMPORAL),
}
