"""Where SAEs that others published lie."""

from pathlib import Path

SAE_FILE = "sae_layer{layer:02d}_{snapshot}.pt"
# format -> where an SAE lies in its release, if that is always the same
FILES = {
    "atlas": SAE_FILE,
    "saelens": None,
    "sparsify": "layers.{layer}",
    "dictionary_learning": None,
    "erdos": SAE_FILE,
}


def path_in_release(recipe: dict, layer: int, snapshot: str) -> str:
    """Where the SAE of a layer and snapshot (`final` for the last) lies: in its repository, or on disk if local."""
    pretrained = recipe["pretrained"]
    file = pretrained["file"].format(layer=layer, snapshot=snapshot)
    return str(Path(pretrained["path"]).expanduser() / file) if pretrained["source"] == "local" else file


def has_snapshots(recipe: dict) -> bool:
    """Does the release hold an SAE per snapshot, or the final ones only?"""
    file = recipe["pretrained"]["file"]
    return file.format(layer=0, snapshot="a") != file.format(layer=0, snapshot="b")


# format -> the small file beside an SAE's tensors that states their sizes; other formats have them in the one file there is
STATED_IN = {"saelens": "cfg.json", "sparsify": "cfg.json", "dictionary_learning": "config.json"}


def stated_sizes(kind: str, config: dict) -> dict[str, int | None]:
    """Latents and input dimensions, in this order, under the keys of a config in a format of STATED_IN; None where it is silent."""
    if kind == "dictionary_learning":
        trainer = config["trainer"]
        return {f"trainer.{key}": trainer.get(key) for key in ("dict_size", "activation_dim")}
    d_in, d_sae = config.get("d_in"), config.get("d_sae")
    if kind == "saelens":
        return {"d_sae": d_sae, "d_in": d_in}
    if config.get("num_latents") or None in (d_in, config.get("expansion_factor")):
        return {"num_latents": config.get("num_latents") or None, "d_in": d_in}
    return {"d_in * expansion_factor": d_in * config["expansion_factor"], "d_in": d_in}
