"""Sites: where in a block activations are read and patched. What each name stands for is measured (`measure`).

This module is read without torch: the config's checks need the names alone.
"""

SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_in", "mlp_out")
INTO_STREAM = tuple(site for site in SITES if site != "mlp_in")  # the stream itself, or what is added to it
MODULE_INPUT = "in:"  # before a module path: what goes into the module
# What TransformerLens' hooks give that are no sites here. What a block's norm gives before its weights: mlp_in is behind them.
NORMALISED = "blocks.{layer}.ln2.hook_normalized"
# What all heads of a layer give, side by side: what goes into attention's output projection, unless biases were folded away.
HEADS = "blocks.{layer}.attn.hook_z"


def own_path(site: str, blocks: str) -> str:
    """A module path with {layer} in it as the model has it whose list of blocks is `blocks`; any other site as it stands.

    Libraries load the same model with more or fewer modules around that list: `layers.{layer}.mlp` is then
    `model.layers.{layer}.mlp`.
    """
    kind = MODULE_INPUT if site.startswith(MODULE_INPUT) else ""
    around, number, inside = site.removeprefix(kind).partition(".{layer}")
    theirs, ours = around.split("."), blocks.split(".")
    if not number or site in (NORMALISED, HEADS) or theirs[-1] != ours[-1]:
        return site
    return f"{kind}{blocks}{number}{inside}" if set(theirs) <= set(ours) or set(theirs) >= set(ours) else site
