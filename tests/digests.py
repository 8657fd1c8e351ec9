"""What files say in numbers, each kind in a few: to hold results against earlier ones that need not be the same bits.

Left out are hashes, dates, versions, sizes of files and all words. The layers' arrays are one: `layer03` is `layer`.
"""

import base64
import gzip
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import zarr
from PIL import Image
from safetensors.numpy import load_file

Named = Iterator[tuple[str, np.ndarray | list[float]]]
NOT_RESULTS = {"record", "base_model", "versions", "total_size", "sae_lens_version", "transformers_version"}
# Columns that say which row it is, and how the table was asked for.
SETTINGS = {
    "blocks",
    "held_out_tokens",
    "latent",
    "layer",
    "recipe",
    "seed",
    "step",
    "students",
    "tokens_seen",
    "width",
}
# Differences of nearly equal numbers, which the rounding of another CPU moves; what they are made of is looked at.
UNSTABLE = {"ce_recovered_mean_ablation", "falling", "merge_difference"}
# What the explorer says of latents; the rest is which contexts, tokens and latents it shows, where ties are rounding's.
EXPLORED = {"activation", "chance", "confidence", "cosines", "density", "detection", "entropy", "highest", "histogram"}
EXPLORED |= {"edges", "importance", "position_bias", "promoted_logits", "selectivity", "suppressed_logits"}
UNORDERED = {".parquet", ".js"}  # rows are ordered by what rounding may swap
NUMERIC = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
DATE, HASH = re.compile(r"\b\d{4}-\d\d-\d\d\b"), re.compile(r"\b[0-9a-f]{12,64}\b")
SIZE = re.compile(r"\b[\d.,]+ [kMG]?B\b")
NUMBER = re.compile(r"(?<![\w.=#-])-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?(?![\w=])")
COLOUR = re.compile(r"#[0-9a-f]{6}\b")
MADE = '<section aria-labelledby="made">'  # the rest of the page: times, costs, versions


def digest(paths: list[Path]) -> dict[str, list[float]]:
    """`summary` of everything in these files or folders of one kind, by name; what has the same name is one array."""
    arrays: dict[str, list[np.ndarray]] = {}
    for path in paths:
        for name, values in read(path):
            arrays.setdefault(re.sub(r"layer\d+", "layer", name), []).append(np.asarray(values, float).ravel())
    ordered = paths[0].suffix not in UNORDERED
    found = {
        name: summary(np.concatenate(parts), ordered) for name, parts in sorted(arrays.items()) if name not in UNSTABLE
    }
    return {name: numbers for name, numbers in found.items() if numbers}


def summary(values: np.ndarray, ordered: bool) -> list[float]:
    """[count, root mean square, sketch] of the finite ones, with the mean for the sketch if not ordered; of one its value.

    The sketch, a sum with fixed signs over the root of the count, is of the order of the values. It moves where their signs or
    their order do, and by a single value's change over that root.
    """
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return [rounded(value) for value in values]
    weights = np.sign(np.cos(np.arange(len(values)))) * np.sqrt(len(values)) if ordered else 1
    return [len(values), rounded(np.sqrt(np.mean(values**2))), rounded(np.mean(weights * values))]


def rounded(value: float) -> float:
    return float(f"{value:.6g}")


def read(path: Path) -> Named:
    """Names and numbers of a file, or of a folder that is a Zarr hierarchy."""
    if path.is_dir():
        return arrays_of(path)
    return READERS[path.suffix](path)


def arrays_of(folder: Path) -> Named:
    """Arrays below a folder, by the last part of their paths, and its own attributes."""
    for node in sorted(folder.rglob("zarr.json")):
        about = json.loads(node.read_text())
        if about["node_type"] == "array":
            name = node.parent.name if node.parent != folder else "values"
            yield name, zarr.open_array(node.parent, mode="r")[...]
        yield from leaves_by_key(about["attributes"])


def tensors(path: Path) -> Named:
    """Weights of a checkpoint, by the last part of their names: all layers' biases are one array."""
    if path.suffix == ".pt":
        content = torch.load(path, map_location="cpu", weights_only=True)
        weights = {name: tensor.numpy() for name, tensor in content["model_state"].items()}
    else:
        weights = load_file(path)
    for name in sorted(weights):
        yield name.rpartition(".")[2], weights[name]


def columns(path: Path) -> Named:
    """Numeric columns of a table; of the table of all metrics the values by metric.

    Of contexts kept at quantiles (`band`) only the activations: which of two with nearly equal ones is kept is rounding's.
    """
    table = pq.read_table(path)
    if "metric" in table.column_names:
        metrics = {name: rows for name, rows in table.to_pandas().groupby("metric") if name not in UNSTABLE}
        for name, rows in metrics.items():
            yield name, rows.value
        for bound in ("low", "high"):
            yield bound, np.arcsinh(np.concatenate([rows[bound] for rows in metrics.values()]))
        return
    if "band" in table.column_names:
        table = table.select(["activation", "rank"])
    for name, column in zip(table.column_names, table.columns, strict=True):
        values = column.combine_chunks()
        while pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
            values = values.flatten()
        if name not in SETTINGS and any(kind(values.type) for kind in NUMERIC):
            yield name, values.drop_null().to_numpy(zero_copy_only=False)


def leaves_by_key(content: dict) -> Named:
    for key, value in content.items():
        if found := [*leaves(value)] if key not in NOT_RESULTS else []:
            yield key, np.array(found)


def leaves(value: object) -> Iterator[float]:
    """Numbers anywhere in JSON."""
    if isinstance(value, dict):
        value = [each for key, each in value.items() if key not in NOT_RESULTS]
    if isinstance(value, list):
        for each in value:
            yield from leaves(each)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value


def numbers(text: str) -> np.ndarray:
    """Those in a text, on a scale that is linear below 1 and logarithmic above, so that none hides the others."""
    for other in (DATE, HASH, SIZE):
        text = other.sub("", text)
    return np.arcsinh([float(number.replace(",", "")) for number in NUMBER.findall(text)])


def markdown(path: Path) -> Named:
    yield "numbers", numbers(path.read_text())


def html(path: Path) -> Named:
    yield "numbers", numbers(re.sub("<[^>]*>", " ", path.read_text().partition(MADE)[0]))


def svg(path: Path) -> Named:
    """Coordinates and colours of what is drawn, its images, and the numbers in its texts, which are comments there."""
    coordinates, colours, text = [], [], []
    parser = ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
    todo = [ElementTree.parse(path, parser).getroot()]
    while todo:
        element = todo.pop()
        if element.tag is ElementTree.Comment:
            text.append(element.text)
            continue
        kind = element.tag.rpartition("}")[2]
        if kind in ("defs", "metadata"):  # shapes of letters and marks, not where they stand
            continue
        if element.get("id", "").startswith("text_"):
            text += [each.text for each in element.iter(ElementTree.Comment)]
            continue
        for key, value in element.attrib.items():
            if key in ("d", "x", "y") and kind in ("path", "use"):
                coordinates += map(float, re.findall(r"-?[\d.]+", value))
            elif key == "style":
                colours += [*bytes.fromhex("".join(COLOUR.findall(value)).replace("#", ""))]
            elif kind == "image" and key.endswith("href"):
                pixels = Image.open(io.BytesIO(base64.b64decode(value.partition(",")[2])))
                yield "image", np.array(pixels)
        todo += reversed(element)
    yield "coordinates", np.array(coordinates)
    yield "colours", np.array(colours)
    yield "numbers", numbers("\n".join(text))


def explorer_data(path: Path) -> Named:
    """A call with gzip in base64: JSON columns of a layer's latents, or what says nothing of them."""
    content = gzip.decompress(base64.b64decode(re.search(r'","(.*)"\)', path.read_text())[1]))
    if path.stem.startswith("layer"):
        for name, values in json.loads(content).items():
            if name in EXPLORED:
                yield name, [*leaves(values)]


READERS = {
    ".html": html,
    ".js": explorer_data,
    ".json": lambda path: leaves_by_key(json.loads(path.read_text())),
    ".md": markdown,
    ".parquet": columns,
    ".pt": tensors,
    ".safetensors": tensors,
    ".svg": svg,
}
