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
