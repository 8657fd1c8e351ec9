"""The published SAE of one layer: model.pt, config.json and model_card.md, checked against each other.

The SAELens pair is put there before (formats/published.py); its hashes are listed too.
"""

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from sae_atlas.io.errors import AtlasError
from sae_atlas.io.files import atomic, sha256, write_json
from sae_atlas.io.provenance import current_record
from sae_atlas.metrics.labels import OF_TASKS, OF_WORDS, name_of
from sae_atlas.metrics.loss_recovered import is_harmless
from sae_atlas.publish.cards.facts import (
    Measured,
    Origin,
    check_weights,
    read_measured,
)
from sae_atlas.publish.cards.how_trained import loss, published_by, training
from sae_atlas.publish.cards.markdown import fill, interval, number
from sae_atlas.publish.cards.names import PUBLISHED, parse_sae_name, spelled_site, width
from sae_atlas.publish.cards.weights import copy
from sae_atlas.saes.architectures import ARCHITECTURES


def write_model_card(
    checkpoint: str | Path,
    metrics: str | Path,
    origin: Origin,
    folder: str | Path,
    name: str,
    author: str,
    further: Sequence[str | Path] = (),
) -> None:
    """Write the folder of the final `checkpoint` of one layer, beside the SAELens pair that is there.

    metrics: the layer's JSON (metrics.evaluate); further: tables of what else was measured of the layer, whose rows come below.
    The date is the checkpoint's, so the same run gives the same card. Raises AtlasError if name, weights, metrics and inputs do
    not belong together.
    """
    folder = Path(folder)
    measured = read_measured(metrics, further)
    _check_name(name, measured, origin.base)
    copy(checkpoint, folder / "model.pt")
    weights = sha256(folder / "model.pt")
    check_weights(checkpoint, weights, measured, "final")
    date = datetime.fromtimestamp(os.stat(checkpoint).st_mtime, UTC).date().isoformat()
    card = _card(name, origin, measured, weights, date, author)
    with atomic(folder / "model_card.md") as partial:
        partial.write_text(card, encoding="utf-8")
    files = {file: sha256(folder / file) for file in PUBLISHED if file != "config.json"}
    write_json(folder / "config.json", _config(name, origin, measured, date, files))


def _check_name(name: str, measured: Measured, base: str) -> None:
    """Raise AtlasError unless every part of the name is what the checkpoint says."""
    parts, config = parse_sae_name(name), measured.config
    expected = {
        "base": (parts.base, base),
        "site": (spelled_site(parts.site), spelled_site(measured.site)),
        "target": tuple(site and spelled_site(site) for site in (parts.target, measured.target)),
        "layer": (parts.layer, measured.layer),
        **{key: (getattr(parts, key), true) for key, true in width(config["recipe"]).items()},
        "tokens": (parts.tokens, config["tokens"]),
        "recipe": (parts.recipe, measured.recipe_name),
    }
    for key, (said, true) in expected.items():
        if said != true:
            raise AtlasError(f"{name}: the name says {key} {said}, {measured.path} says {true}. Rename or rebuild it.")


def _card(name: str, origin: Origin, measured: Measured, weights: str, date: str, author: str) -> str:
    config, rows = measured.config, measured.metrics()
    recipe = config["recipe"]
    return fill(
        "model_card.md.jinja",
        name=name,
        origin=origin,
        measured=measured,
        config=config,
        recipe=recipe,
        architecture=ARCHITECTURES[recipe["architecture"]].label,
        training=training(origin, measured),
        loss=loss(measured),
        published_by=published_by(recipe),
        l0=rows["l0"],
        tasks=bool({*OF_TASKS} & {*rows}),
        rows=[{**row, "name": name_of(metric), "counted": _counted(metric)} for metric, row in rows.items()],
        limitations=list(_limitations(origin, measured)),
        export=_instead_of_saelens(config),
        sha256=weights,
        date=date,
        author=author,
    )


def _counted(metric: str) -> str:
    """What its held_out_tokens count, where they are no held-out tokens."""
    return "" if metric not in OF_TASKS else "words" if metric in OF_WORDS else "tokens"


def _instead_of_saelens(config: dict) -> str | None:
    """The format of `sae-atlas export` for a TopK transcoder, which SAELens cannot load; sparsify can where d_out is d_in."""
    if "d_out" not in config or ARCHITECTURES[config["recipe"]["architecture"]].inference != "topk":
        return None
    return "sparsify" if config["d_out"] == config["d_in"] else "safetensors"


def _config(name: str, origin: Origin, measured: Measured, date: str, files: dict) -> dict:
    config = measured.config
    keys = ("source", "revision", "licence", "quantisation", "architecture", "n_layers", "d_model", "weights_sha256")
    return {
        "name": name,
        "base_model": {"name": origin.base, **{key: origin.model.get(key) for key in keys}},
        "site": measured.site,
        "layer": measured.layer,
        "d_in": config["d_in"],
        "d_sae": config["d_sae"],
        **({"target": measured.target, "d_out": config["d_out"]} if measured.target else {}),
        "recipe": {"name": measured.recipe_name, **config["recipe"]},
        "lambda": config.get("lambda"),
        "tokens": config["tokens"],
        "corpus": {
            "name": origin.text,
            "source": origin.text_source,
            "licence": origin.text_licence,
            "context": origin.context,
            "held_out_tokens": origin.corpus["held_out_tokens"],
        },
        "stats": measured.last["stats"],
        "metrics": measured.metrics(),
        "date": date,
        "files_sha256": files,
        "records": {"training": config["record"], "evaluation": measured.record, "card": current_record()},
    }


def _doubts(rows: dict[str, dict]):
    """What those metrics that were measured do not say."""
    for ablation, words in (("zero", "zeros"), ("mean", "its mean")):
        if is_harmless(rows[f"ce_{ablation}"]["value"], rows["ce_clean"]["value"]):
            yield f"Setting the site to {words} does not raise the loss here: CE recovered beside it says nothing."
    if {"tpp_10", "scr_10"} & {*rows}:
        yield "Targeted probe perturbation and spurious correlation removal have been found unreliable (arXiv 2605.18229)."
    if "absorption" in rows:
        yield (
            "SAEBench recommends models of two billion parameters or more for absorption (the config of that evaluation in "
            "0.6.0); on a smaller one it shows how it is measured and is no finding."
        )


def _limitations(origin: Origin, measured: Measured):
    rows, config = measured.metrics(), measured.config
    if origin.model["source"].startswith("random"):
        yield "The base model's weights are random: this is a control or a test, its latents mean nothing."
    if origin.model.get("quantisation"):
        yield f"The base model is the one stored as {origin.model['quantisation']}, not the original in full precision."
    if "pretrained" in config["recipe"]:
        yield f"Measured on {origin.text}, which may be among the text it was trained on elsewhere."
        if measured.target and config["recipe"]["pretrained"]["format"] == "gemma_scope":
            yield (
                "Gemma Scope's transcoders read what the norm gives before its weights. These are theirs with the norm's "
                f"weights divided out, so that they compute the same at {measured.site}."
            )
    else:
        kind = "rows" if origin.of_rows else "text"
        yield (
            f"Trained on {number(config['tokens'])} tokens of {origin.text} and measured on the same kind of {kind}; what "
            f"it does on other {kind} is not known."
        )
    dead = rows["dead"]
    if dead["value"]:
        yield (
            f"{number(dead['value'])} of {number(config['d_sae'])} latents did not fire on "
            f"{number(dead['held_out_tokens'])} held-out tokens. On more tokens some of them may."
        )
    if origin.of_rows:
        yield (
            f"These are {origin.rows_words}, without a model: what one that reads the reconstruction loses (CE, KL) "
            "is not measured. A token here is a row of them."
        )
    else:
        lost = rows["ce_increase"]
        of_interval = f"95% interval {interval(lost)}, " if interval(lost) else ""
        yield (
            f"A base model that reads the reconstruction instead loses {number(lost['value'])} nats per token "
            f"({of_interval}{number(lost['held_out_tokens'])} held-out tokens)."
        )
        yield from _doubts(rows)
        what = "measurement" if "pretrained" in config["recipe"] else "training and measurement"
        yield f"Document starts and padding were left out of {what}; latents on them mean nothing."
    if measured.last["stats"].get("converged") is False:
        yield "The controller of lambda did not reach its L0 target; compare it with other runs by the measured L0."
