"""The table of all published SAEs, and everything in their folders that disagrees."""

import re
from collections.abc import Iterator
from pathlib import Path

import torch

from sae_atlas.config.published import expansion
from sae_atlas.io.errors import FETCH, AtlasError
from sae_atlas.io.files import atomic, read_json, sha256
from sae_atlas.io.provenance import current_record
from sae_atlas.publish.cards.markdown import escape, number
from sae_atlas.publish.cards.names import PUBLISHED, parse_sae_name, spelled_site, width
from sae_atlas.publish.formats import saelens
from sae_atlas.saes.checkpoint import load_checkpoint
from sae_atlas.saes.sae import Sae

INDEX_COLUMNS = ("base", "site", "layer", "recipe", "expansion", "tokens", "L0", "FVU", "CE recovered", "sha256")
TEMPLATE = Path(__file__).parent / "cards" / "templates" / "model_card.md.jinja"


def write_index(table: str | Path) -> None:
    """Write `table`, in the folder that holds all published SAEs, as Markdown. Raises AtlasError as `index` does."""
    made_by = f"\n<!-- made by {record['identity']} -->\n" if (record := current_record()) else ""
    with atomic(table) as partial:
        partial.write_text(f"# Published SAEs\n\n{index(Path(table).parents[1])}{made_by}", encoding="utf-8")


def index(models: str | Path) -> str:
    """A Markdown table of every folder in `models`/sae: base, site, ..., the sha256 of model.pt.

    Raises AtlasError, one line per problem, if a folder's name, config and weights disagree, a hash is wrong, or a card
    lacks a heading.
    """
    folders = sorted(path for path in Path(models, "sae").glob("*") if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise AtlasError(f"{Path(models, 'sae')}: no SAE is published here; run the workflow first")
    problems_of = {folder: list(problems(folder)) for folder in folders}
    if any(problems_of.values()):
        raise AtlasError("\n".join(f"{folder}: {problem}" for folder, each in problems_of.items() for problem in each))
    rows = sorted((_row(read_json(folder / "config.json")) for folder in folders), key=lambda row: row[:5])
    lines = [f"| {' | '.join(INDEX_COLUMNS)} |", "|---" * len(INDEX_COLUMNS) + "|"]
    lines += [f"| {' | '.join(_cell(value) for value in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def _row(config: dict) -> tuple:
    metrics = (config["metrics"].get(metric, {}).get("value") for metric in ("l0", "fvu", "ce_recovered"))
    recipe, weights = config["recipe"], config["files_sha256"]["model.pt"]
    site = " → ".join(config[key] for key in ("site", "target") if key in config)
    names = (config["base_model"]["name"], site, config["layer"], recipe["name"], recipe["expansion"])
    return (*names, config["tokens"], *metrics, weights[:12])


def _cell(value: object) -> str:
    return number(value) if isinstance(value, (int, float)) or value is None else escape(value)


def problems(folder: Path) -> Iterator[str]:
    """What is wrong with one folder, in words; nothing if all agrees."""
    try:
        config = read_json(folder / "config.json")
        parts = parse_sae_name(folder.name)
        yield from _disagreements("its name", folder.name, vars(parts), _said(config))
        yield from _wrong_files(folder, config["files_sha256"])
        yield from _weights(folder, config)
        yield from _missing_headings(folder / "model_card.md")
    except (OSError, ValueError) as error:
        yield f"not readable ({error}); rebuild it"
    except (KeyError, TypeError) as error:
        yield f"config.json: has no {error}; rebuild it"
    except AtlasError as error:
        yield str(error)


def _said(config: dict) -> dict:
    recipe = config["recipe"]
    return {
        "base": config["base_model"]["name"],
        "site": config["site"],
        "target": config.get("target"),
        "layer": config["layer"],
        **width(recipe),
        "tokens": config["tokens"],
        "recipe": recipe["name"],
    }


def _disagreements(what: str, where: str, actual: dict, said: dict) -> Iterator[str]:
    for key, value in said.items():
        same = actual[key] == value
        if key in ("site", "target") and None not in (actual[key], value):
            same = spelled_site(actual[key]) == spelled_site(value)
        if not same:
            yield f"{what} says {key} {actual[key]}, config.json says {value}; rename or rebuild {where}"


def _wrong_files(folder: Path, hashes: dict) -> Iterator[str]:
    for name in sorted({*PUBLISHED, *hashes} - {"config.json"}):
        path = folder / name
        if not path.is_file():
            yield f"{name} is missing; rebuild it"
        elif name not in hashes:
            yield f"config.json lists no sha256 of {name}; rebuild it"
        elif sha256(path) != hashes[name]:
            yield f"{name} is not the file that config.json lists (sha256 differs); fetch or rebuild it"
    for path in sorted(folder.iterdir()):
        if path.name not in (*hashes, "config.json"):
            yield f"{path.name}: no part of what was published; remove it"


def _weights(folder: Path, config: dict) -> Iterator[str]:
    checkpoint = load_checkpoint(folder / "model.pt", FETCH)
    own = checkpoint["config"]
    actual = {key: own[key] for key in ("tokens", "d_in", "d_sae")} | {
        key: own["activations"].get(key) for key in ("site", "target", "layer")
    }
    actual |= {"record": own["record"], "expansion": expansion(own["d_sae"], own["d_in"]), "d_out": own.get("d_out")}
    said = {key: config[key] for key in ("tokens", "d_in", "d_sae", "site", "layer")}
    said |= {key: config.get(key) for key in ("target", "d_out")}
    said |= {"record": config["records"]["training"], "expansion": config["recipe"]["expansion"]}
    yield from _disagreements("model.pt", folder.name, actual, said)
    if not _same_weights(Sae(**saelens.read(folder)), Sae(**checkpoint)):
        yield "sae_weights.safetensors and model.pt hold different weights; rebuild it"


def _same_weights(pair: Sae, sae: Sae) -> bool:
    names = ["W_enc", "b_enc", "W_dec", "b_dec", "threshold"] + ["W_skip"] * (sae.W_skip is not None)
    kinds = [(each.inference, each.k, each.is_transcoder, each.W_skip is None, each.token_norm) for each in (pair, sae)]
    return kinds[0] == kinds[1] and all(torch.equal(getattr(pair, name), getattr(sae, name)) for name in names)


def _missing_headings(card: Path) -> Iterator[str]:
    there = set(headings(card.read_text(encoding="utf-8")))
    for heading in headings(TEMPLATE.read_text(encoding="utf-8")):
        if heading not in there:
            yield f"model_card.md has no heading `{heading}`; rebuild it"


def headings(text: str) -> list[str]:
    return re.findall(r"^## (.+)$", text, re.MULTILINE)
