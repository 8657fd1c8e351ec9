"""Saved activations depend on the window of the corpus, stores on how they are shuffled and written."""

from sae_atlas.stages.declare import stage


def saved_dtype(atlas) -> str:
    """What the passes save: stores of float32 are made from float32, all others from float16."""
    return "float32" if atlas.config["activations"]["dtype"] == "float32" else "float16"


def target_of(atlas) -> dict:
    """The setting `target` of transcoders; nothing for SAEs, as in identities from before there were transcoders."""
    target = atlas.config["activations"].get("target")
    return {"target": target} if target else {}


# Of a stage that is a pass over text: where its code is, and its functions.
PASS = ("activations/save.py", "activations/save_rows.py", "own_arrays", "io/arrays.py", "sites")
FUNCTIONS = {"runs": "activations.save:save_activations", "on_rows": "activations.save_rows:save_rows"}


def pass_over(atlas, start: int, stop: int, layers: list[int]) -> tuple[dict, dict]:
    """Settings and inputs of a pass over the train tokens start:stop."""
    activations = atlas.config["activations"]
    read = {"base_model": atlas.identity("prepare_model"), "corpus": atlas.identity("tokenize")}
    if atlas.of_rows:
        return {"start": start, "stop": stop, "dtype": saved_dtype(atlas)}, read | atlas.files(layers)
    settings = {
        "site": activations["site"],
        "start": start,
        "stop": stop,
        "dtype": saved_dtype(atlas),
        "model_dtype": atlas.config["base_model"]["dtype"],
        "contexts_per_batch": activations["contexts_per_batch"],
    }
    return settings, read


@stage(*PASS, **FUNCTIONS)
def save_activations(atlas, snapshot: str) -> tuple[dict, dict]:
    """Which layers share the pass is left out: one layer more changes nothing for the others."""
    settings, inputs = pass_over(atlas, *atlas.window(snapshot), atlas.layers)
    return settings | target_of(atlas), inputs


@stage(
    "activations/shard.py",
    "activations/outliers.py",
    "activations/coding.py",
    "activations/chunks.py",
    "activations/store.py",
    "io/arrays.py",
    runs="activations.shard:shard_activations",
)
def shard_activations(atlas, snapshot: str, layer: int) -> tuple[dict, dict]:
    activations = atlas.config["activations"]
    keys = ("dtype", "compression", "outlier_norm", "shard_rows", "chunk_rows", "seed")
    # keep_bits, of a precision that is no more, stays in the settings: without it every store would have another identity.
    settings = {"layer": layer, "keep_bits": None, **{key: activations[key] for key in keys}}
    return settings, {"activations": atlas.passed("save_activations", [layer], snapshot=snapshot)}
