"""A release: all layers and snapshots of a recipe in one folder, with figures, hashes and a README for the hub."""

import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path

from sae_atlas.config.layers import layer_words
from sae_atlas.io.files import sha256
from sae_atlas.io.provenance import current_record
from sae_atlas.metrics.labels import METRICS
from sae_atlas.publish.cards.facts import (
    Measured,
    Origin,
    as_yaml,
    check_weights,
    read_measured,
    read_origin,
    without_folders,
)
from sae_atlas.publish.cards.listed import fill_folder
from sae_atlas.publish.cards.markdown import Plain, code, escape, fill, number
from sae_atlas.publish.cards.names import checkpoint_name
from sae_atlas.saes.architectures import ARCHITECTURES, sparsity_words

FLOORS = "8_loss_floor_predictions.png"
AT_THE_TOP = ("1_training_curves.png", "2_metrics_heatmap.png", FLOORS)  # these have their place in the template
TAGS = {
    "SAE": ("sparse-autoencoder", "sae"),
    "transcoder": ("transcoder",),
}  # by which the hub finds what others published
QUALITY = ("ce_recovered", "ce_increase", "fvu", "l0", "dead_share")


def write_release(
    checkpoints: Sequence[str | Path],
    metrics: Sequence[str | Path],
    layers: Sequence[int],
    snapshots: Sequence[str],
    figures: Sequence[str | Path],
    base_model: str | Path,
    corpus: str | Path,
    readme: str | Path,
    name: str,
    base: str,
    text: str,
    sisters: dict[str, dict],
    config: dict,
    licence: str,
    author: str,
) -> None:
    """Fill the folder of `readme`; the README comes last, so a folder that has one is whole.

    checkpoints: of all `layers` and, in each, all `snapshots` (`final` for the last); metrics: of all layers, JSON of
    metrics.evaluate. sisters: release name -> recipe. config: what reproduces this recipe. Weights and figures are hard
    links. The folder lists its files in SHA256SUMS; what an earlier release listed and this one does not is removed. Raises
    AtlasError if a file is not the one that was measured.
    """
    readme = Path(readme)
    origin = read_origin(base_model, corpus, base, text)
    measured = dict(zip(layers, map(read_measured, metrics), strict=True))
    linked, hashes = {}, {}
    for (layer, snapshot), path in zip(itertools.product(layers, snapshots), checkpoints, strict=True):
        target = checkpoint_name(layer, snapshot)
        linked[target], hashes[target] = path, sha256(path)
        check_weights(path, hashes[target], measured[layer], snapshot)
    size = sum(Path(path).stat().st_size for path in linked.values())
    for figure in figures:
        target = f"plots/{Path(figure).name}"
        linked[target], hashes[target] = figure, sha256(figure)
    as_text = as_yaml(without_folders(config))
    written = {"config.yaml": f"# What makes {name} again: snakemake --configfile config.yaml\n{as_text}\n"}
    pictures = [Path(figure).name for figure in figures]
    written[readme.name] = _page(
        name, origin, list(measured.values()), size, pictures, sisters, config, licence, author
    )
    fill_folder(readme.parent, linked, hashes, written)


def _page(
    name: str,
    origin: Origin,
    measured: list[Measured],
    size: int,
    pictures: Sequence[str],
    sisters: dict[str, dict],
    config: dict,
    licence: str,
    author: str,
) -> str:
    first, layers = measured[0], [each.layer for each in measured]
    snapshots, values = list(first.checkpoints), first.config["recipe"]
    middle = layers[len(layers) // 2]
    examples = [checkpoint_name(layers[0], snapshots[0]), checkpoint_name(middle, "final")]
    return fill(
        "release.md.jinja",
        name=name,
        front_matter=as_yaml(_front_matter(origin, licence, values, first.kind)),
        origin=origin,
        base_link=Plain(f"[{escape(origin.hub_id)}](https://huggingface.co/{origin.hub_id})")
        if origin.hub_id
        else origin.base,
        site=first.site,
        target=first.target,
        config=first.config,
        recipe=values,
        layers=layers,
        layer_words=layer_words(layers),
        snapshots=snapshots,
        snapshot_words=", ".join(f"{s} ({number(first.checkpoints[s]['config']['tokens'])} tokens)" for s in snapshots),
        snapshot_list=Plain(", ".join(map(code, snapshots))),
        examples=list(dict.fromkeys(examples)),
        encode=_encode(values, first.target is not None),
        architecture=ARCHITECTURES[values["architecture"]].label,
        sparsity=sparsity_words(values),
        quality=[_quality(metric, measured) for metric in QUALITY if metric in first.metrics()],
        penalty=_penalty(measured),
        floors=_floors(config) if FLOORS in pictures else None,
        pictures=[{"file": file, "words": _words(file)} for file in pictures if file not in AT_THE_TOP],
        runs=list(_runs({name: values, **sisters}, name)),
        reproduce=as_yaml(without_folders(config)),
        licence=licence,
        author=author,
        size=size,
    )


def _floors(config: dict) -> str:
    """What the figure of the distillation floors shows."""
    measured = " and measured" if "students" in config.get("floors", {}) else ""
    return f"Predicted{measured} loss floors of narrower students"


def _words(picture: str) -> str:
    """`3_snapshot_convergence.png` as people read it."""
    return Path(picture).stem.partition("_")[2].replace("_", " ").capitalize()


def _front_matter(origin: Origin, licence: str, recipe: dict, kind: str) -> dict:
    """What the hub reads: https://huggingface.co/docs/hub/model-cards."""
    matter = {
        "license": licence,
        "base_model": origin.hub_id or origin.base,
        "library_name": "pytorch",
        "tags": [*TAGS[kind], "interpretability", "sae-atlas", recipe["architecture"], origin.base],
    }
    if origin.corpus["text"]["source"] == "hub":
        matter["datasets"] = [origin.corpus["text"]["id"]]
    record = current_record()
    return matter | ({"sae_atlas_identity": record["identity"]} if record else {})


def _encode(recipe: dict, is_transcoder: bool) -> str:
    """The lines of Python that turn activations into latents (saes/sae.py)."""
    inference = ARCHITECTURES[recipe["architecture"]].inference
    if inference == "pursuit":
        return (
            'decoder, left = weights["decoder.weight"].T, x - bias\n'
            "latents = torch.zeros(len(x), len(decoder))\n"
            f"for _ in range({recipe['k']}):\n"
            "    chosen = (left @ decoder.T).argmax(1)\n"
            "    values = (left * decoder[chosen]).sum(1, keepdim=True).relu()\n"
            "    latents.scatter_add_(1, chosen[:, None], values)\n"
            "    left = left - values * decoder[chosen]"
        )
    centred = "x" if is_transcoder else "(x - bias)"
    pre_activations = f'latents = {centred} @ weights["encoder.weight"].T + weights["encoder.bias"]\n'
    if inference == "topk":
        return (
            f"{pre_activations}values, kept = latents.relu().topk({recipe['k']})\n"
            "latents = torch.zeros_like(latents).scatter(-1, kept, values)"
        )
    if inference == "relu":
        return f"{pre_activations}latents = latents.relu()"
    return f'{pre_activations}latents = torch.where(latents > weights["threshold"], latents, 0).relu()'


def _quality(metric: str, measured: list[Measured]) -> dict:
    about = METRICS[metric]
    rows = {each.layer: each.metrics()[metric] for each in measured}
    # Of activations that are all alike some metrics have no value.
    rows = {layer: row for layer, row in rows.items() if row["value"] is not None}
    if not rows:
        return {"name": about.name, "median": None, "worst": "", "best": "", "unit": about.unit, "tokens": None}
    ordered = sorted(rows, key=lambda layer: rows[layer]["value"], reverse=about.better == "down")
    worst, best = (f"{number(rows[layer]['value'])} (layer {layer})" for layer in (ordered[0], ordered[-1]))
    if about.better is None or len({row["value"] for row in rows.values()}) == 1:
        worst = best = ""  # no layer is
    return {
        "name": about.name,
        "median": statistics.median(row["value"] for row in rows.values()),
        "worst": worst,
        "best": best,
        "unit": rows[ordered[0]]["unit"],
        "tokens": rows[ordered[0]]["held_out_tokens"],
    }


def _penalty(measured: list[Measured]) -> dict | None:
    """Lambda as stated, and what it is in the canonical convention over the layers."""
    penalties = [each.config["lambda"] for each in measured if "lambda" in each.config]
    if not penalties:
        return None
    l1 = measured[0].config["recipe"]["l1"]
    adapted = l1["target_l0"] is not None
    return {
        "anneal_to": l1.get("anneal_to"),
        **{key: penalties[0][key] for key in ("stated", "convention")},
        "canonical": _spread([each["canonical"] for each in penalties]),
        "last": _spread([each["last"] for each in penalties]) if adapted else None,
    }


def _spread(values: list[float]) -> str:
    low, high = number(min(values)), number(max(values))
    return low if low == high else f"{low} to {high} (by layer)"


def _runs(runs: dict[str, dict], this: str):
    """Rows of the sister runs in the order of their names, this one in bold."""
    for name, recipe in sorted(runs.items()):
        yield {
            "link": Plain(f"**{escape(name)}**" if name == this else f"[{escape(name)}](../{name})"),
            "architecture": ARCHITECTURES[recipe["architecture"]].label,
            "expansion": recipe["expansion"],
            "sparsity": sparsity_words(recipe),
        }
