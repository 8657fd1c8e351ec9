"""circuit-tracer: the transcoders of all layers in one folder, layer_{i}.safetensors each, and config.yaml.

A file holds {W_enc [d_sae, d_in], W_dec [d_sae, d_out], b_enc, b_dec}, activation_function.threshold [d_sae] unless it is a
ReLU transcoder, and W_skip [d_out, d_in] if it has a skip connection. A folder with config.yaml is whole. `features/` is what
its page shows of latents, of the layers whose contexts were looked for (features.for_circuit_tracer).

Its absolute path is what load_transcoder_from_hub and `circuit-tracer attribute --transcoder_set` take, with backend nnsight.
circuit-tracer 0.5.0 puts no start token before a text if its id is 0: such models want token ids that begin with it.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from sae_atlas.config.layers import COUNTED, stated
from sae_atlas.config.limits import read_plain
from sae_atlas.features.for_circuit_tracer import write_features
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import atomic
from sae_atlas.publish.cards.facts import as_yaml
from sae_atlas.publish.cards.names import checkpoint_name
from sae_atlas.publish.formats.foreign import write_safetensors
from sae_atlas.publish.formats.load import load_sae
from sae_atlas.saes.sae import Sae

# Sites under circuit-tracer's names. Its nnsight backend knows them in Llama, Gemma 3 and gpt-oss.
HOOKS = {"mlp_in": "mlp.hook_in", "mlp_out": "hook_mlp_out"}
CONFIG = "config.yaml"
FEATURES = "features"  # the page looks for them in the folder of the graphs, which is this one


def export_release(release: str | Path, folder: str | Path) -> None:
    """Write the final transcoders of a release, models/releases/NAME, as circuit-tracer reads them, and of the layers that the
    config's section `features` lists what latents fire on.

    Raises AtlasError if layers of the model are missing, and as `write` does.
    """
    release = Path(release)
    layers = {int(path.stem.split("_")[1].removeprefix("layer")) for path in release.glob("sae_layer[0-9]*_final.pt")}
    if not layers:
        raise AtlasError(
            f"{release}: holds no {checkpoint_name(0, 'final')}; circuit-tracer reads all layers, so name a release folder, "
            "models/releases/NAME"
        )
    count = _layers_of_model(release / CONFIG) or max(layers) + 1
    if missing := sorted(set(range(count)) - layers):
        raise AtlasError(
            f"{release}: has no {checkpoint_name(missing[0], 'final')}; circuit-tracer replaces the MLP of every layer: train "
            "them all (activations.layers: all)"
        )
    features = _write_features(release, Path(folder) / FEATURES)
    scan = f"./data/{FEATURES}" if features else release.resolve().name
    write(folder, [release / checkpoint_name(layer, "final") for layer in range(count)], scan)


def _write_features(release: Path, folder: Path) -> bool:
    """What latents fire on, from the results of the run that made the release; whether there is any."""
    recipes = list((read_plain(release / CONFIG) or {}).get("recipes", {})) if (release / CONFIG).is_file() else []
    results = release.resolve().parents[2] / "results"
    tables = sorted((results / "features" / recipes[0]).glob("layer*_contexts.parquet")) if recipes else []
    for contexts in tables:
        layer = int(contexts.name.removeprefix("layer").split("_")[0])
        about = contexts.with_name(contexts.name.replace("contexts", "features"))
        write_features(contexts, about, results / "base_model" / "provenance.json", folder, layer)
    return bool(tables)


def write(folder: str | Path, files: Sequence[str | Path], scan: str) -> None:
    """The transcoders in `files`, those of layers 0, 1, ... in this order. scan: what graphs call them, or where the page finds
    what they fire on.

    Raises AtlasError for what circuit-tracer does not compute: SAEs, TopK, other sites than mlp_in and mlp_out, and layers
    that differ in width or in having a skip connection; and for a folder that holds another config.yaml, or files that
    circuit-tracer would read as further transcoders and that are not ours. Nothing is written or removed before that.
    """
    folder, form = Path(folder), None
    for file in files:
        transcoder = load_sae(file)
        _check(file, transcoder)
        this = f"{transcoder.d_sae} latents {'without' if transcoder.W_skip is None else 'with'} skip connection"
        if this != (form := form or this):
            raise AtlasError(
                f"{file}: has {this}, layer 0 has {form}; circuit-tracer wants all layers alike: export those of one recipe"
            )
    if (folder / CONFIG).is_file() and "model_kind" not in (read_plain(folder / CONFIG) or {}):
        raise AtlasError(
            f"{folder / CONFIG}: is not of circuit-tracer's kind and would be replaced; give another folder"
        )
    further = set(folder.glob("layer_*.safetensors")) - {_layer_file(folder, layer) for layer in range(len(files))}
    for file in sorted(further):
        if not (folder / CONFIG).is_file() or not re.fullmatch(r"layer_\d+", file.stem):
            raise AtlasError(
                f"{file}: circuit-tracer would read it as a transcoder; give another folder, or move it away"
            )
    (folder / CONFIG).unlink(missing_ok=True)
    for file in further:
        file.unlink()  # of an export of a deeper model
    for layer, file in enumerate(files):
        write_safetensors(_layer_file(folder, layer), _tensors(load_sae(file)))
    config = {
        "model_kind": "transcoder_set",
        "feature_input_hook": HOOKS["mlp_in"],
        "feature_output_hook": HOOKS["mlp_out"],
        "scan": scan,
    }
    source = transcoder.config["activations"]["base_model"].get("source") or ""
    if source.startswith("hub "):
        config["model_name"] = source.removeprefix("hub ")
    with atomic(folder / CONFIG) as partial:
        partial.write_text(as_yaml(config) + "\n", encoding="utf-8")


def _layer_file(folder: Path, layer: int) -> Path:
    return folder / f"layer_{layer}.safetensors"


def _layers_of_model(config: Path) -> int | None:
    """Of the base model that a release's config names; None where it is not at hand."""
    return stated(read_plain(config)["base_model"], COUNTED) if config.is_file() else None


def _check(file: str | Path, transcoder: Sae) -> None:
    activations = transcoder.config["activations"]
    if not transcoder.is_transcoder:
        raise AtlasError(
            f"{file}: is an SAE; circuit-tracer replaces MLPs by transcoders: train some with activations.site mlp_in and "
            "target mlp_out"
        )
    if (activations["site"], activations.get("target")) != tuple(HOOKS):
        raise AtlasError(
            f"{file}: predicts {activations.get('target')} from {activations['site']}; circuit-tracer replaces MLPs: train "
            "with activations.site mlp_in and target mlp_out"
        )
    if transcoder.k is not None:
        raise AtlasError(
            f"{file}: is a TopK transcoder; circuit-tracer has ReLU and JumpReLU only: train batch_topk, which has a threshold"
        )


def _tensors(transcoder: Sae) -> dict[str, Tensor]:
    tensors = {
        "W_enc": transcoder.W_enc.T,
        "W_dec": transcoder.W_dec,
        "b_enc": transcoder.b_enc,
        "b_dec": transcoder.b_dec,
    }
    if transcoder.inference == "threshold":
        # circuit-tracer keeps all that is above the threshold, where Gated transcoders keep what is positive, too.
        tensors["activation_function.threshold"] = transcoder.threshold.clamp(min=0)
    if transcoder.W_skip is not None:
        tensors["W_skip"] = transcoder.W_skip
    return tensors
