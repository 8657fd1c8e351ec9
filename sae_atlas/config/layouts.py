"""Where the weights of an SAE lie in the files of others: names and shapes. Without torch: the config reads widths by it."""

from collections.abc import Mapping

Layout = Mapping[str, tuple[str, tuple[str, ...]]]  # our name -> (name in the file, sides), sides as ("d_sae", "d_in")
THRESHOLD: Layout = {"threshold": ("threshold", ("d_sae",))}


def products(W_enc: str, b_enc: str, W_dec: str, b_dec: str) -> Layout:
    """Matrices by which rows are multiplied from the left: x W_enc."""
    return {
        "W_enc": (W_enc, ("d_in", "d_sae")),
        "b_enc": (b_enc, ("d_sae",)),
        "W_dec": (W_dec, ("d_sae", "d_in")),
        "b_dec": (b_dec, ("d_in",)),
    }


def linear(W_enc: str, b_enc: str, W_dec: str, b_dec: str) -> Layout:
    """Matrices as torch.nn.Linear has them: W_enc x."""
    turned = products(W_enc, b_enc, W_dec, b_dec)
    return {ours: (name, sides[::-1]) for ours, (name, sides) in turned.items()}


def of_transcoder(layout: Layout) -> Layout:
    """The same of a transcoder, which decodes to d_out dimensions."""
    written = {
        ours: (name, tuple("d_out" if side == "d_in" else side for side in sides))
        for ours, (name, sides) in layout.items()
        if ours in ("W_dec", "b_dec")
    }
    return {**layout, **written}


def shapes_of(layout: Layout) -> dict[str, tuple[str, ...]]:
    """Name in the file -> sides."""
    return dict(layout.values())


OURS = ("W_enc", "b_enc", "W_dec", "b_dec")
LINEAR = linear("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias")
# Formats whose tensors have these names always; those of the others depend on the architecture.
LAYOUTS: dict[str, Layout] = {
    "gemma_scope": {**products(*OURS), **THRESHOLD},
    "gemma_scope_2": {**products("w_enc", "b_enc", "w_dec", "b_dec"), **THRESHOLD},
    "llama_scope": LINEAR,
    "llama_scope_r1_distill": {**LINEAR, "threshold": ("log_jumprelu_threshold", ("d_sae",))},
    "qwen_scope": linear(*OURS),
    "goodfire": linear("encoder_linear.weight", "encoder_linear.bias", "decoder_linear.weight", "decoder_linear.bias"),
    "deepseek_r1": LINEAR,
    "connor_rob_hook_z": products(*OURS),
    "circuit_tracer": of_transcoder({**products(*OURS), "W_enc": ("W_enc", ("d_sae", "d_in"))}),
}
