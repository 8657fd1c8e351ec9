"""Sites: where in a block activations are read and patched. What each name stands for is measured (`measure`).

This module is read without torch: the config's checks need the names alone.
"""

SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_in", "mlp_out")
INTO_STREAM = tuple(site for site in SITES if site != "mlp_in")  # the stream itself, or what is added to it
MODULE_INPUT = "in:"  # before a module path: what goes into the module
# What a block's norm gives before its weights, as TransformerLens calls it: no site, for mlp_in is behind the weights.
NORMALISED = "blocks.{layer}.ln2.hook_normalized"
