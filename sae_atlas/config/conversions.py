"""Which of our formats reads what a conversion function of SAELens reads, or why none does."""

from typing import NamedTuple


class Conversion(NamedTuple):
    """format: one of config.published.FILES, None where the SAEs are not read. file: the SAE below its path in the list, `""`
    where that path is the SAE. refusal: where they are not read, why."""

    format: str | None
    file: str = ""
    refusal: str = ""


NOT_YET = Conversion(None, refusal="its format is not read yet")

CONVERSIONS: dict[str | None, Conversion] = {
    None: Conversion("saelens"),
    "sparsify": Conversion("sparsify"),
    "dictionary_learning_1": Conversion("dictionary_learning"),
    "gemma_2": Conversion("gemma_scope", "params.npz"),
    "gemma_2_transcoder": Conversion("gemma_scope", "params.npz"),
    "gemma_3": NOT_YET,
    "qwen_scope": NOT_YET,
    "llama_scope": NOT_YET,
    "llama_scope_r1_distill": NOT_YET,
    "goodfire": NOT_YET,
    "deepseek_r1": NOT_YET,
    "mwhanna_transcoder": NOT_YET,
    "mntss_clt_layer_transcoder": NOT_YET,
    "connor_rob_hook_z": NOT_YET,
    "temporal": NOT_YET,
}
