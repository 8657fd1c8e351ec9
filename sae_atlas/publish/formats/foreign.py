"""What every reader needs: reading files without running anything, checks of names and shapes, the form of a checkpoint."""

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sae_atlas.config.layouts import Layout, shapes_of
from sae_atlas.io.errors import AtlasError, nearest, reason
from sae_atlas.io.files import atomic
from sae_atlas.publish.formats.hooks import parse_hook
from sae_atlas.saes.checkpoint import model_state
from sae_atlas.saes.sae import Sae

Shapes = Mapping[str, tuple[str, ...]]
OFF = (None, False, "none", "", [], {})  # values with which a key has no effect
FIRST = {"W_enc": "d_sae", "W_dec": "d_sae", "W_skip": "d_out"}  # side of our matrices that comes first
# TransformerLens' settings that take biases out of what the heads give (sites.values): those of their values, and with
# `fold_ln` what the norm before attention adds to them.
FOLDS = ("fold_ln", "fold_value_biases")


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Raises AtlasError if the file is missing or damaged."""
    if not path.is_file():
        raise AtlasError(f"{path}: is not there; fetch it again")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise AtlasError(f"{path}: damaged ({reason(error)}); fetch it again") from error


def shapes_in(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a .safetensors file, of which only the head is read. Raises as read_safetensors."""
    if not path.is_file():
        raise AtlasError(f"{path}: is not there; fetch it again")
    try:
        with safe_open(path, "np") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise AtlasError(f"{path}: damaged ({reason(error)}); fetch it again") from error


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors, atomically."""
    with atomic(path) as partial:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, metadata)


def read_config(path: Path) -> dict:
    """A JSON object. Raises AtlasError if it is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AtlasError(f"{path}: not readable ({reason(error)}); fetch it again") from error
    if not isinstance(value, dict):
        raise AtlasError(f"{path}: holds {type(value).__name__}, not an object; fetch it again")
    return value


def require(path: Path, config: dict, key: str, allowed: tuple) -> object:
    """The value of a key that must be one of `allowed`; the first is meant where the key is absent."""
    value = config.get(key, allowed[0])
    if value not in allowed:
        known = [each for each in allowed if each is not None]
        raise AtlasError(
            f"{path}: {key} {value!r} is not supported; {nearest(value, known) if known else 'only null is'}"
        )
    return value


def refuse_unknown(path: Path, config: dict, known: Collection[str]) -> None:
    """Raise AtlasError for a key beside `known` that is set, in a config all of whose keys may say what an SAE computes.

    Libraries and their forks add keys; one that is off changes nothing.
    """
    for key in sorted(set(config) - set(known)):
        if config[key] not in OFF:
            raise AtlasError(
                f"{path}: key `{key}` ({str(config[key])[:40]}) is not known here and may change what the SAE computes; "
                "if it does not, take it out of a copy of the file"
            )


def refuse_beyond_weights(sae: Sae, library: str) -> None:
    """Raise AtlasError where the weights alone cannot say what the SAE computes.

    It normalises every token, or reads heads without the biases of their values.
    """
    if sae.token_norm is not None:
        raise AtlasError(
            f"{library} has no SAEs that normalise every token ({sae.token_norm}); choose saelens or safetensors"
        )
    if sae.config.get("activations", {}).get("folded"):
        raise AtlasError(
            f"{library} cannot say that an SAE reads heads without the biases of their values; choose saelens or safetensors"
        )


def active(path: Path, config: dict, key: str, d_sae: int) -> int:
    """The number of active latents, which the file must state: a whole number from 1 to d_sae."""
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= d_sae:
        raise AtlasError(f"{path}: {key} is {value!r}, not a whole number from 1 to the {d_sae} latents")
    return value


def check_stated(path: Path, stated: Mapping[str, object], tensors: Iterable[object]) -> None:
    """Raise AtlasError where a number that a config states is not that of the tensors, in the same order; None states none."""
    for (key, said), have in zip(stated.items(), tensors, strict=True):
        if said is not None and said != have:
            raise AtlasError(f"{path}: {key} is {said}, the weights have {have}; fetch it again")


def checked(
    path: Path, tensors: Mapping[str, object], shapes: Shapes, later: Shapes | None = None
) -> dict[str, Tensor]:
    """The tensors in float32. shapes: name -> `("d_sae", "d_in")`; the biases, of one dimension, give the sizes, the first
    matrix those that no bias has. later: of tensors that the format did not have from the start.

    Raises AtlasError for a tensor that is missing, unknown, of another shape (as where encoder and decoder are swapped) or
    not finite.
    """
    shapes = shapes | {name: shape for name, shape in (later or {}).items() if name in tensors}
    for name in sorted(set(tensors) - set(shapes)):
        raise AtlasError(f"{path}: unknown tensor `{name}`; {nearest(name, shapes)}")
    for name in shapes:
        if not isinstance(tensors.get(name), Tensor):
            raise AtlasError(f"{path}: has no tensor `{name}`")
    sizes: dict[str, int] = {}
    for name, shape in sorted(shapes.items(), key=lambda item: len(item[1])):
        have = tuple(tensors[name].shape)
        if not _fits(have, shape, sizes):
            swapped = "; encoder and decoder are swapped or transposed" if _fits(have[::-1], shape, sizes) else ""
            wanted = tuple(sizes.get(side, side) for side in shape)
            raise AtlasError(f"{path}: {name} has shape {have}, expected {' x '.join(shape)} = {wanted}{swapped}")
        sizes |= zip(shape, have, strict=True)
        if tensors[name].nbytes > tensors[name].untyped_storage().nbytes():
            raise AtlasError(f"{path}: {name} repeats few numbers to shape {have}; no weights do")
        if not torch.isfinite(tensors[name]).all():
            raise AtlasError(f"{path}: {name} holds values that are not finite")
    return {name: tensors[name].detach().to(torch.float32) for name in shapes}


def weights(
    path: Path, tensors: Mapping[str, object], layout: Layout, later: Layout | None = None
) -> dict[str, Tensor]:
    """The tensors of `layout` in float32 under our names, matrices as `checkpoint` takes them; checked as by `checked`.

    later: of tensors that only some files of the format have.
    """
    plain = checked(path, tensors, shapes_of(layout), shapes_of(later or {}))
    turned = {}
    for ours, (name, sides) in {**layout, **(later or {})}.items():
        if name in plain:
            turned[ours] = plain[name].T if ours in FIRST and sides[0] != FIRST[ours] else plain[name]
    return turned


def scaled(weights: dict[str, Tensor], factor: float) -> dict[str, Tensor]:
    """Weights on raw activations x of those on `factor` x: latents and thresholds stay as they are."""
    return weights | {
        "W_enc": weights["W_enc"] * factor,
        "W_dec": weights["W_dec"] / factor,
        "b_dec": weights["b_dec"] / factor,
    }


def _fits(have: tuple[int, ...], shape: tuple[str, ...], sizes: dict[str, int]) -> bool:
    return len(have) == len(shape) and all(
        sizes.get(side, number) == number for side, number in zip(shape, have, strict=True)
    )


def checkpoint(
    W_enc: Tensor,
    b_enc: Tensor,
    W_dec: Tensor,
    b_dec: Tensor,
    architecture: str,
    *,
    k: int | None = None,
    threshold: Tensor | None = None,
    centred: bool = True,
    is_transcoder: bool = False,
    W_skip: Tensor | None = None,
    token_norm: str | None = None,
    activations: dict,
    tokens: int | None = None,
    stated: dict,
) -> dict:
    """Our checkpoint (sae_atlas/saes/checkpoint.py) of W_enc, W_dec [d_sae, d_in]: `{model_state, config, stats}`.

    centred: does the encoder of an SAE read x - b_dec? If not, its bias is moved so that it does; that of a transcoder, with
    W_dec [d_sae, d_out] and W_skip [d_out, d_in] or None, reads x. token_norm: of saes/token_norm.py. activations: site,
    target of a transcoder, layer, base model and which of FOLDS were set (`folded`) as far as the file says; stated: what else
    it says of itself.
    """
    d_sae, d_in = W_enc.shape
    if not (centred or is_transcoder):
        b_enc = (b_enc.double() + W_enc.double() @ b_dec.double()).float()
    recipe = {"architecture": architecture} | ({"k": k} if k is not None else {})
    recipe |= {"skip": True} if W_skip is not None else {}
    target = {"target": None} if is_transcoder else {}
    config = {
        "recipe": recipe,
        "d_in": d_in,
        "d_sae": d_sae,
        "tokens": tokens,
        "normaliser": {"scale": 1.0},
        "activations": {"base_model": {}, "site": None, "layer": None} | target | activations,
        "stated": stated,
    }
    config |= {"d_out": len(b_dec)} if is_transcoder else {}
    config |= {"token_norm": token_norm} if token_norm else {}
    state = model_state(W_enc, b_enc, W_dec, b_dec, threshold, W_skip, is_transcoder)
    return {"model_state": state, "config": config, "stats": {}}


def site_and_layer(path: Path, key: str, hook: object, layer: object = None) -> dict:
    """Site and layer as the file says them, as `activations` of a checkpoint: by a hook's name under `key`, and by a number.

    A name that is not understood is the site as it stands: it is another than the config's. Raises AtlasError where name and
    number contradict each other.
    """
    parsed = parse_hook(hook) if isinstance(hook, str) else None
    if parsed is None:
        return {"site": hook or None, "layer": layer}
    if layer not in (None, parsed[1]):
        raise AtlasError(f"{path}: {key} is {hook!r}, but its layer {layer!r}; correct which of them is wrong")
    return dict(zip(("site", "layer"), parsed, strict=True))


def with_target(path: Path, key: str, hook: object, read: dict) -> dict:
    """`activations` of a transcoder: what it reads (site_and_layer), and the target by the hook's name under `key`.

    Raises AtlasError where the target lies in another layer.
    """
    predicted = site_and_layer(path, key, hook, read["layer"])
    return {"site": read["site"], "target": predicted["site"], "layer": predicted["layer"]}
