"""What cards and release pages say, from the run's own files. Without torch: many cards are written, each by a job."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from sae_atlas.base_models.packages import find_text
from sae_atlas.config.without_model import ROWS
from sae_atlas.io.errors import AtlasError, escaped
from sae_atlas.io.files import read_json
from sae_atlas.own_arrays.files import SITE

SITE_WORDS = {
    "resid_pre": "residual stream before block {layer}",
    "resid_mid": "residual stream between attention and MLP of block {layer}",
    "resid_post": "residual stream after block {layer}",
    "attn_out": "attention output of block {layer}",
    "mlp_in": "MLP input (the norm's output) of block {layer}",
    "mlp_out": "MLP output of block {layer}",
    SITE: "activations of layer {layer}",
}


@dataclass(frozen=True)
class Origin:
    """Base model and text, the same for every SAE of an atlas."""

    base: str
    model: dict  # what base_models.prepare wrote
    text: str
    corpus: dict  # attributes of the corpus

    @property
    def model_source(self) -> str:
        """Where the weights came from, in words."""
        revision = self.model.get("revision")
        return f"{self.model['source']}, revision {revision}" if revision else self.model["source"]

    @property
    def of_rows(self) -> bool:
        """Are the activations saved or synthetic ones, so that tokens are rows of arrays?"""
        return "rows" in self.model

    @property
    def rows_words(self) -> str:
        """What these rows are, in words."""
        return ROWS["synthetic" if "generator" in self.model else "activations"]

    @property
    def hub_id(self) -> str | None:
        """The base model's id on the hub, if it came from there."""
        source = self.model["source"]
        return source.removeprefix("hub ") if source.startswith("hub ") else None

    @property
    def text_source(self) -> str:
        """Where the text came from, in words."""
        text = self.corpus["text"]
        if text["source"] == "package":
            embedded = find_text(text["package"])
            topic = f", topic {text['topic']}" if "topic" in text else ""
            return f"package {embedded.package}=={embedded.version}, file {embedded.file}{topic}"
        if text["source"] == "rows":
            return f"rows of {self.rows_words}"
        paths = text.get("path", [])
        named = text.get("id") or ", ".join(Path(path).name for path in ([paths] if isinstance(paths, str) else paths))
        keys = ("revision", "subset", "split", "field", "exclude")
        lists = {key: [text[key]] if isinstance(text[key], str) else text[key] for key in keys if key in text}
        values = {key: " ".join(map(escaped, words)) for key, words in lists.items()}
        details = [f"{key} {value}" for key, value in values.items()] + ["chat"] * text.get("chat", False)
        return ", ".join([f"{text['source']} {named}", *details])

    @property
    def text_licence(self) -> str | None:
        text = self.corpus["text"]
        return find_text(text["package"]).licence if text["source"] == "package" else None

    @property
    def context(self) -> int:
        return self.corpus["record"]["settings"]["context"]


def read_origin(base_model: str | Path, corpus: str | Path, base: str, text: str) -> Origin:
    """Base model (its provenance) and text, which are called `base` and `text`."""
    # Zarr v3 keeps a group's attributes here; to import zarr takes longer than to write the card.
    attributes = read_json(Path(corpus) / "zarr.json")["attributes"]
    return Origin(base, read_json(base_model), text, attributes)


@dataclass(frozen=True)
class Measured:
    """One layer of a recipe: what its checkpoints are and what was measured of them (metrics.evaluate's JSON)."""

    path: Path
    checkpoints: dict[str, dict]  # snapshot -> sha256, config, stats
    rows: list[dict]
    record: dict

    @property
    def last(self) -> dict:
        return self.checkpoints["final"]

    @property
    def config(self) -> dict:
        """Config of the final checkpoint."""
        return self.last["config"]

    @property
    def recipe_name(self) -> str:
        return self.rows[0]["recipe"]

    @property
    def layer(self) -> int:
        return self.config["activations"]["layer"]

    @property
    def site(self) -> str:
        return self.config["activations"]["site"]

    @property
    def target(self) -> str | None:
        """The site that a transcoder predicts."""
        return self.config["activations"].get("target")

    @property
    def kind(self) -> str:
        return "SAE" if self.target is None else "transcoder"

    @property
    def site_words(self) -> str:
        """The site in words; of a transcoder input and target."""
        sites = [self.site, *([self.target] if self.target else [])]
        words = [SITE_WORDS.get(site, "output of module {site}").format(site=site, layer=self.layer) for site in sites]
        return words[0] if len(words) == 1 else f"from {words[0]} to {words[1]}"

    def metrics(self, snapshot: str = "final") -> dict[str, dict]:
        """Metric -> its row."""
        return {row["metric"]: row for row in self.rows if row["snapshot"] == snapshot}


def read_measured(path: str | Path, further: Sequence[str | Path] = ()) -> Measured:
    """What metrics.evaluate wrote as JSON, and below it the rows of `further` tables of metrics of the same SAEs."""
    evaluation = read_json(path)
    rows = evaluation["metrics"]
    if further:
        from sae_atlas.io.tables import read_rows  # here, for most cards need no pyarrow, which takes 0.2 s

        rows += [row for table in further for row in read_rows(table)]
    return Measured(Path(path), evaluation["checkpoints"], rows, evaluation["record"])


def check_weights(path: str | Path, sha256: str, measured: Measured, snapshot: str) -> None:
    """Raise AtlasError unless the file's hash is that of the checkpoint which was measured."""
    expected = measured.checkpoints[snapshot]["sha256"]
    if sha256 != expected:
        raise AtlasError(
            f"{path}: not the checkpoint that {measured.path} measured (sha256 {sha256[:12]}, expected "
            f"{expected[:12]}). Delete both and rerun; they will be rebuilt."
        )


def as_yaml(value: dict) -> str:
    """A config or front matter as a page shows it."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110).rstrip()


def without_folders(config: dict) -> dict:
    """The config without the folders of this machine: of local models, texts and SAEs only the last part of every path."""

    def plain(key: str, value: object) -> object:
        if key == "path":
            return [Path(each).name for each in value] if isinstance(value, list) else Path(value).name
        return without_folders(value) if isinstance(value, dict) else value

    return {key: plain(key, value) for key, value in config.items()}
