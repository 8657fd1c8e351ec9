"""What does not depend on an SAE, once per base model and site: held-out activations, clean and ablated losses.

On disk: a Zarr v3 group. `tokens`, `mask` [contexts, context]; `final` [patched, context, d_model], the stream after the
last block; `ce_clean` [patched, context - 1]; and a group for every layer, `layerLL`, with a record of its own: `site`
[contexts, context, d_in], with transcoders `target` [contexts, context, d_out], which is then what is patched; `stream` where
the patched pass does not start from the patched site itself, and `{ce,kl}_{zero,mean}` [patched, context - 1]. A layer that
is added later is put beside the others, whose passes are not made again. Of saved activations no context is patched, and there
are no losses (held_out_rows.py).

Chunks carry checksums and are never left out, so that damage is an error (`open_held_out`), not zeros.

In every patched pass, masked positions (document starts, padding) keep their own activation. Losses are later averaged
over predictions made at unmasked positions.
"""

from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path

import numpy as np
import torch
import zarr
from torch import Tensor
from zarr.codecs import Crc32cCodec

from sae_atlas.activations.save import largest_value
from sae_atlas.base_models.load import load
from sae_atlas.corpus import open_corpus
from sae_atlas.io.arrays import Rows
from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import atomic, move, remove
from sae_atlas.io.log import progress
from sae_atlas.io.provenance import carries, current_record
from sae_atlas.metrics.losses import Clean, clean_predictions, losses, scored
from sae_atlas.sites.hooks import blocks, capture, capture_sites, check_site, patch, start_at
from sae_atlas.sites.trace import forward_pass

ATTRIBUTES = "zarr.json"  # of a group


def save_held_out(
    base_model: str | Path,
    corpus: str | Path,
    clean: str | Path,
    layers: list[int],
    site: str,
    tokens: int,
    patched_tokens: int,
    contexts_per_batch: int,
    model_dtype: str,
    device: str = "auto",
    target: str | None = None,
) -> None:
    """Clean pass over the contexts of `tokens` held-out tokens; zero- and mean-ablated passes over the first of them.

    clean: the folder that is written, the layers' in it. Layers that are there, made by the same job, are left as they are.
    """
    output, record = Path(clean), current_record()
    there = record is not None and carries(output / ATTRIBUTES, [record["identity"]])
    layers = [layer for layer in layers if not (there and _is_there(output, layer, record))]
    if not layers:
        return
    model, origin = load(base_model, model_dtype, device)
    for each in (site, target) if target else (site,):
        check_site(model, each, layers, origin)
    source = open_corpus(corpus)
    rows, patched = source.held_out_rows(tokens), len(source.held_out_rows(patched_tokens))
    ids, mask = source.tokens[rows.start : rows.stop].astype(np.int64), source.mask[rows.start : rows.stop]
    batches = [slice(first, first + contexts_per_batch) for first in range(0, len(ids), contexts_per_batch)]
    ablated = sum(batch.start < patched for batch in batches)
    work = len(batches) + 2 * len(layers) * ablated
    with atomic(output / ".added" if there else output) as partial, torch.inference_mode():
        group = zarr.create_group(partial, zarr_format=3)
        for name, values in (("tokens", ids), ("mask", mask)):
            create_array(group, name, values.shape, len(values), values.dtype)[:] = values
        about = {"site": site, "target": target} if target else {"site": site}
        group.attrs.update({**about, "patched": patched, "model_dtype": model_dtype, "record": record})
        for layer in layers:
            group.create_group(f"layer{layer:02d}").attrs.update({"record": record})
        with progress(work, "passes", "held-out") as bar:
            for batch in batches:
                _clean(model, group, ids[batch], batch, layers, bar)
            means = {layer: write_mean(group, mask, layer) for layer in layers}
            for batch in batches:
                if batch.start < patched:
                    batch = slice(batch.start, min(batch.stop, patched))
                    _ablated(model, group, ids[batch], mask[batch], batch, means, bar)
    if there:
        for layer in layers:
            move(output / ".added" / f"layer{layer:02d}", output / f"layer{layer:02d}")
        remove(output / ".added")


def _is_there(folder: Path, layer: int, record: dict) -> bool:
    """Whether a layer is whole. Atlases from before layers had records were written at once: there, it gets its record."""
    attributes = folder / f"layer{layer:02d}" / ATTRIBUTES
    if attributes.is_file() and not carries(attributes, [record["identity"]]):
        zarr.open_group(attributes.parent, mode="r+").attrs.update({"record": record})
    return attributes.is_file()


class HeldOut:
    """Held-out data on disk: `rows(name)` reads an array, `attrs` holds `site`, `patched`, `model_dtype`, the record, and with
    transcoders `target`.
    """

    def __init__(self, path: Path, group: zarr.Group):
        self.path, self.group, self.attrs = path, group, dict(group.attrs)

    @property
    def model_dtype(self) -> str:
        """Arithmetic of the clean and ablated passes; patched passes must use the same."""
        # Data from before it was an attribute have it in their record.
        return self.attrs.get("model_dtype") or self.attrs["record"]["settings"]["model_dtype"]

    def rows(self, name: str) -> Rows:
        """An array by name. Raises AtlasError if it, or a chunk of it, is missing."""
        if name not in self.group:
            raise AtlasError(f"{self.path}: holds no {name}. Delete the held-out data and rerun; they will be rebuilt.")
        return Rows(self.path / name, self.group[name], "held-out data")


def open_held_out(path: str | Path) -> HeldOut:
    """Raises AtlasError if the data are not there or not readable."""
    try:
        group = zarr.open_group(path, mode="r")
    except Exception as error:  # damaged metadata shows as errors of many kinds
        raise AtlasError(f"{path}: no readable held-out data. Delete them and rerun; they will be rebuilt.") from error
    return HeldOut(Path(path), group)


def patched_site(attrs: dict) -> str:
    """The site that is rebuilt: an SAE's own, a transcoder's target."""
    return attrs.get("target", attrs["site"])


def patched_name(attrs: dict) -> str:
    """Array of its activations."""
    return "target" if "target" in attrs else "site"


def stream_name(attrs: dict) -> str:
    """Array a patched pass starts from: the patched site's own, or the block's input if the site is inside the block."""
    return patched_name(attrs) if patched_site(attrs) in ("resid_pre", "resid_post") else "stream"


@contextmanager
def replace_site(model, site: str, layer: int, stream: Tensor, replaced: Tensor):
    """Inside the `with`, the site of `layer` is `replaced` [batch, context, d]; blocks before it are skipped."""
    with ExitStack() as stack:
        if site == "resid_post":
            stack.enter_context(start_at(model, layer + 1, replaced))
        elif site == "resid_pre":
            stack.enter_context(start_at(model, layer, replaced))
        else:
            stack.enter_context(start_at(model, layer, stream))
            stack.enter_context(patch(model, site, layer, lambda _: replaced))
        yield


def predictions(model, final: Tensor, tokens: Tensor) -> Clean:
    """The clean pass's predictions from the stream after the last block."""
    with start_at(model, len(blocks(model)), final):
        return clean_predictions(forward_pass(model, tokens).logits)


def _clean(model, group, ids: np.ndarray, batch: slice, layers: list[int], bar) -> None:
    """The model's own pass over a batch of contexts, ids [contexts, context]: activations and losses."""
    attrs, patched = dict(group.attrs), group.attrs["patched"]
    tokens = torch.from_numpy(ids).to(model.device)
    last = len(blocks(model)) - 1
    read = {name: attrs[name] for name in ("site", "target") if name in attrs}
    if stream_name(attrs) == "stream":
        read["stream"] = "resid_pre"
    with ExitStack() as stack:
        captured = stack.enter_context(capture_sites(model, list(read.values()), layers, stop=False))
        final = stack.enter_context(capture(model, "resid_post", [last], stop=False))
        logits = forward_pass(model, tokens, last_only=batch.start >= patched).logits
    contexts = group["tokens"].shape[0]
    batch = slice(batch.start, min(batch.stop, contexts))
    for layer, (name, site) in product(layers, read.items()):
        largest_value(captured[site][layer], layer)
        write_rows(group, f"layer{layer:02d}/{name}", contexts, batch, captured[site][layer])
    if batch.start < patched:
        write_rows(group, "final", patched, batch, final[last])
        write_rows(
            group, "ce_clean", patched, batch, losses(logits, scored(model, tokens), clean_predictions(logits))[0]
        )
    bar.update()


def write_mean(group, mask: np.ndarray, layer: int) -> Tensor:
    """Mean of the patched site over unmasked held-out tokens, [d]; kept beside the activations, which are read in parts."""
    x = group[f"layer{layer:02d}/{patched_name(dict(group.attrs))}"]
    total = torch.zeros(x.shape[-1], dtype=torch.float64)
    for first in range(0, len(mask), x.chunks[0]):
        rows = slice(first, first + x.chunks[0])
        total += torch.from_numpy(x[rows][mask[rows]]).sum(dim=0, dtype=torch.float64)
    mean = (total / mask.sum()).float()
    create_array(group, f"layer{layer:02d}/mean", mean.shape, len(mean), np.float32)[:] = mean.numpy()
    return mean


def _ablated(model, group, ids: np.ndarray, mask: np.ndarray, batch: slice, means: dict[int, Tensor], bar) -> None:
    """Zero- and mean-ablated passes of every layer over a batch of contexts; ids, mask [contexts, context]."""
    attrs, patched = dict(group.attrs), group.attrs["patched"]
    tokens, mask = torch.from_numpy(ids).to(model.device), torch.from_numpy(mask)[:, :, None]
    clean = predictions(model, torch.from_numpy(group["final"][batch]).to(model.device, model.dtype), tokens)
    for layer, mean in means.items():
        name = f"layer{layer:02d}"
        x = torch.from_numpy(group[f"{name}/{patched_name(attrs)}"][batch])
        stream = torch.from_numpy(group[f"{name}/{stream_name(attrs)}"][batch]).to(model.device, model.dtype)
        for ablation, value in (("zero", torch.zeros_like(mean)), ("mean", mean)):
            replaced = torch.where(mask, value, x).to(model.device, model.dtype)
            with replace_site(model, patched_site(attrs), layer, stream, replaced):
                logits = forward_pass(model, tokens).logits
            for loss, values in zip(("ce", "kl"), losses(logits, scored(model, tokens), clean), strict=True):
                write_rows(group, f"{name}/{loss}_{ablation}", patched, batch, values)
            bar.update()


def write_rows(group, name: str, rows: int, batch: slice, values: Tensor) -> None:
    """Write rows of float32 array `name`, made on the first write."""
    values = values.float().cpu().numpy()
    if name not in group:
        create_array(group, name, (rows, *values.shape[1:]), min(rows, len(values)), np.float32)
    stop = min(batch.stop, rows)
    group[name][batch.start : stop] = values[: stop - batch.start]


def create_array(group, name: str, shape: tuple, rows_per_chunk: int, dtype) -> zarr.Array:
    """An array of held-out data, with a checksum per chunk."""
    return group.create_array(
        name,
        shape=shape,
        chunks=(rows_per_chunk, *shape[1:]),
        dtype=dtype,
        compressors=[Crc32cCodec()],
        config={"write_empty_chunks": True},  # a missing chunk is damage, never zeros
    )
