"""The grid an atlas is: layers x snapshots x recipes, the order of the passes, and the identity of every cell.

Settings are what a stage's numbers depend on and nothing else; an identity is the hash of a stage's version, settings and
inputs' identities, so it is known before anything runs and can be checked in what is found on disk.
"""

from collections.abc import Collection, Mapping
from functools import cached_property, lru_cache
from types import MappingProxyType

from sae_atlas.config.published import has_snapshots
from sae_atlas.config.without_model import OF_ROWS
from sae_atlas.io.provenance import identity
from sae_atlas.io.sizes import format_size
from sae_atlas.publish.cards.names import release_name, sae_name
from sae_atlas.stages import STAGES
from sae_atlas.stages.versions import stage_version

SAVED, ROW_TEXTS = (
    "saved_activations",
    "row_texts",
)  # in place of a job, in the names of contents: files of the user's own


def file_input(layer: int) -> str:
    """Name of the input that a layer's file of saved activations is."""
    return f"file of layer {layer}"


def job_name(stage: str, **cell) -> str:
    """The name of a job: `import_sae layer=3 recipe=theirs snapshot=1M`."""
    return " ".join([stage, *(f"{name}={value}" for name, value in sorted(cell.items()))])


class Atlas:
    """Names, ranges, settings and identities of all jobs of a resolved config (config.read.complete_config)."""

    def __init__(
        self,
        config: dict,
        begun_with: str | None = None,
        again: Collection = (),
        contents: Mapping[str, str] = MappingProxyType({}),
    ):
        """begun_with: see stages.versions. again: stages, or jobs by their names (job_name), that are asked for again:
        they and what depends on them get identities that nothing on disk has. contents: see stages.contents."""
        self.config, self.begun_with, self.again, self.contents = config, begun_with, again, contents
        self.layers: list[int] = config["activations"]["layers"]
        self.recipes: list[str] = list(config["recipes"])
        self.pretrained = [name for name, recipe in config["recipes"].items() if "pretrained" in recipe]
        self.trained = [name for name in self.recipes if name not in self.pretrained]
        self.tokens_at: dict[str, int] = {
            format_size(tokens): tokens for tokens in [*config["training"]["snapshots"], config["training"]["tokens"]]
        }
        self.snapshots: list[str] = list(self.tokens_at)
        self.finetuned = [name for name in self.trained if "finetune" in config["recipes"][name]]
        self.tokens_at |= {self.trained_to(name, self.last): self._before_finetuning(name) for name in self.finetuned}
        self.identity = lru_cache(None)(self.identity)

    # --- the grid -------------------------------------------------------------------------------------------------

    @property
    def of_rows(self) -> bool:
        """Are its layers saved or synthetic activations, whose rows stand where tokens do, and no model's?"""
        return self.config["base_model"]["source"] in OF_ROWS

    @property
    def has_truth(self) -> bool:
        """Are the features known that its rows are made of?"""
        return self.config["base_model"]["source"] == "synthetic"

    @property
    def tokens(self) -> int:
        return self.config["training"]["tokens"]

    def expansion(self, recipe: str) -> int:
        return self.config["recipes"][recipe]["expansion"]

    @property
    def last(self) -> str:
        return self.snapshots[-1]

    def snapshots_of(self, recipe: str) -> list[str]:
        """All of them; of published SAEs without snapshots the last; of one that goes on from another those behind it."""
        if recipe in self.pretrained and not has_snapshots(self.config["recipes"][recipe]):
            return [self.last]
        start = self.config["recipes"][recipe].get("start_from", {})
        if "snapshot" not in start or start["recipe"] in self.pretrained:
            return self.snapshots
        return self.snapshots[self.snapshots.index(format_size(start["snapshot"])) + 1 :]

    def start_of(self, recipe: str, layer: int) -> tuple[str, dict] | None:
        """Stage and cell of the checkpoint at which the training of a layer begins; None for random directions."""
        start = self.config["recipes"][recipe].get("start_from", {})
        if "path" in start:
            return "import_start", {"recipe": recipe, "layer": layer}
        begins_at = self.neighbour_before(layer) if start.get("layer") == "previous" else start.get("layer", layer)
        if not start or begins_at is None:
            return None
        source = start["recipe"]
        snapshot = format_size(start["snapshot"]) if "snapshot" in start else self.last
        if source == recipe:
            snapshot = self.snapshots[0]
        return self.checkpoint_rule(source, snapshot), {"recipe": source, "layer": begins_at, "snapshot": snapshot}

    def neighbour_before(self, layer: int) -> int | None:
        """The layer of the atlas before this one."""
        index = self.layers.index(layer)
        return self.layers[index - 1] if index else None

    def tokens_of(self, recipe: str, snapshot: str) -> int:
        """Train tokens a checkpoint is named after; published SAEs may say otherwise of the last."""
        stated = self.config["recipes"][recipe].get("pretrained", {}).get("tokens")
        return stated if stated and snapshot == self.last else self.tokens_at[snapshot]

    def checkpoint_rule(self, recipe: str, snapshot: str) -> str:
        """The stage that makes a checkpoint of a recipe."""
        if recipe in self.finetuned and snapshot == self.last:
            return "finetune_sae"
        return "train_sae" if recipe in self.trained else "import_sae"

    def _before_finetuning(self, recipe: str) -> int:
        return self.tokens - self.config["recipes"][recipe]["finetune"]["tokens"]

    def trained_to(self, recipe: str, snapshot: str) -> str:
        """What train_sae makes of the window to a snapshot: that snapshot, or the checkpoint at which fine-tuning begins."""
        tunes = recipe in self.finetuned and snapshot == self.last
        return format_size(self._before_finetuning(recipe)) if tunes else snapshot

    def chain(self, recipe: str) -> list[str]:
        """The snapshots of a recipe, and before the last one the checkpoint at which its fine-tuning begins."""
        return [
            *dict.fromkeys(name for each in self.snapshots_of(recipe) for name in (self.trained_to(recipe, each), each))
        ]

    def kept_resume_point(self, recipe: str) -> str | None:
        """Where a chain goes on when the run is made longer: at its end; before the last window if that is fine-tuned."""
        *earlier, last = self.snapshots_of(recipe)
        return last if recipe not in self.finetuned else next(reversed(earlier), None)

    def published(self, snapshot: str) -> str:
        """Name of a snapshot in tables and releases: the last one is `final`."""
        return "final" if snapshot == self.last else snapshot

    def sae_name(self, recipe: str, layer: int) -> str:
        """Folder of the final SAE of a layer under models/sae."""
        base, activations = self.config["base_model"]["name"], self.config["activations"]
        values, tokens = self.config["recipes"][recipe], self.tokens_of(recipe, self.last)
        width = values["expansion"], tokens, recipe, values.get("d_sae")
        return sae_name(base, activations["site"], layer, *width, target=activations.get("target"))

    def release_name(self, recipe: str) -> str:
        """Folder of a recipe under models/releases."""
        kind = "transcoders" if "target" in self.config["activations"] else "saes"
        return release_name(self.config["base_model"]["name"], self.expansion(recipe), recipe, kind)

    def previous(self, snapshot: str, recipe: str | None = None) -> str | None:
        """The snapshot before; of a recipe None for the first that it has."""
        every = self.snapshots if recipe is None else self.chain(recipe)
        index = every.index(snapshot)
        return every[index - 1] if index else None

    def following(self, snapshot: str) -> str | None:
        index = self.snapshots.index(snapshot) + 1
        return self.snapshots[index] if index < len(self.snapshots) else None

    def window(self, snapshot: str) -> tuple[int, int]:
        """Train tokens [start, stop) between the snapshot before and this one, or one of a recipe's chain."""
        stop = self.tokens_at[snapshot]
        return max([0, *(self.tokens_at[each] for each in self.snapshots if self.tokens_at[each] < stop)]), stop

    def store_of(self, snapshot: str) -> str:
        """The snapshot to whose window's store it belongs: itself, or the last for one before fine-tuning."""
        return snapshot if snapshot in self.snapshots else self.last

    @cached_property
    def groups(self) -> dict[str, list[int]]:
        """Layers saved by one forward pass, by name (`00-29`)."""
        return self._grouped(self.layers)

    @cached_property
    def feature_layers(self) -> list[int]:
        """Layers whose latents are looked at (config section `features`)."""
        return self.config["features"]["layers"] if "features" in self.config else []

    @property
    def decoder_site(self) -> str:
        """Where the directions that latents write lie: the target of transcoders."""
        activations = self.config["activations"]
        return activations.get("target", activations["site"])

    @property
    def site_words(self) -> str:
        """The site as titles say it; of transcoders input and target."""
        site = self.config["activations"]["site"]
        return site if site == self.decoder_site else f"{site} → {self.decoder_site}"

    def neighbour_layers(self, layer: int) -> list[int]:
        """The layers of the atlas next to it; none where the site is a module, whose directions no other layer shares."""
        at = self.layers.index(layer)
        return [] if "{layer}" in self.decoder_site else [*self.layers[:at][-1:], *self.layers[at + 1 :][:1]]

    @cached_property
    def text_layers(self) -> list[int]:
        """Layers whose activations of the contexts' text are read: those looked at, and those next to them."""
        return sorted({*self.feature_layers}.union(*map(self.neighbour_layers, self.feature_layers)))

    @cached_property
    def text_groups(self) -> dict[str, list[int]]:
        """Of them, those saved by one forward pass, by name."""
        return self._grouped(self.text_layers)

    def _grouped(self, layers: list[int]) -> dict[str, list[int]]:
        size = self.config["activations"]["layers_per_pass"]
        chunks = [layers[first : first + size] for first in range(0, len(layers), size)]
        return {f"{chunk[0]:02d}-{chunk[-1]:02d}": chunk for chunk in chunks}

    def group_of(self, layer: int) -> str:
        return next(name for name, layers in self.groups.items() if layer in layers)

    @cached_property
    def passes(self) -> list[tuple[str, str]]:
        """(snapshot, group) in the order the forward passes run: a window is finished before the next begins."""
        return [(snapshot, group) for snapshot in self.snapshots for group in self.groups]

    def freed_by(self, snapshot: str, group: str) -> list[tuple[int, str]]:
        """(layer, snapshot) cells that must be trained before this pass may fill the disk again.

        Keeps the number of stores at or below `activations.max_live_stores`.
        """
        ahead = self.config["activations"]["max_live_stores"] // self.config["activations"]["layers_per_pass"]
        index = self.passes.index((snapshot, group)) - ahead
        if index < 0:
            return []
        earlier, layers = self.passes[index]
        return [(layer, earlier) for layer in self.groups[layers]]

    # --- what a job depends on ----------------------------------------------------------------------------------------

    def settings(self, stage: str, **cell) -> dict:
        """What the stage's numbers depend on, as scalars in a fixed order."""
        return STAGES[stage].of(self, **cell)[0]

    def inputs(self, stage: str, **cell) -> dict[str, str]:
        """Identity of every input of a job, by the input's name in its rule."""
        return STAGES[stage].of(self, **cell)[1]

    def content(self, stage: str, **cell) -> dict[str, str]:
        """What the user's own files hold that the job reads, as one of its inputs; empty where it reads none."""
        name = job_name(stage, **cell)
        return {"content": self.contents[name]} if name in self.contents else {}

    def files(self, layers: Collection[int]) -> dict[str, str]:
        """What the files of saved activations hold, by layer, as inputs of a job that reads them; empty for a model's."""
        names = {file_input(layer): job_name(SAVED, layer=layer) for layer in layers}
        return {key: self.contents[name] for key, name in names.items() if name in self.contents}

    def row_texts(self) -> dict[str, str]:
        """What the text of the rows of saved activations holds, as an input of a job that shows it; empty without one."""
        return {"row_texts": self.contents[ROW_TEXTS]} if ROW_TEXTS in self.contents else {}

    def version(self, stage: str) -> str:
        return stage_version(stage, self.begun_with)

    def runs(self, stage: str) -> str:
        """The function of a stage."""
        return (self.of_rows and STAGES[stage].on_rows) or STAGES[stage].runs

    def identity(self, stage: str, **cell) -> str:
        return self._identity(stage, *STAGES[stage].of(self, **cell), cell)

    def checkpoint(self, recipe: str, layer: int, snapshot: str | None = None) -> str:
        """Identity of the checkpoint of a snapshot, by default the last."""
        snapshot = snapshot or self.last
        return self.identity(self.checkpoint_rule(recipe, snapshot), recipe=recipe, layer=layer, snapshot=snapshot)

    def passed(self, stage: str, layers: Collection[int], **cell) -> str:
        """Identity of a pass over the text of many layers, as what is made of these depends on it: of saved activations the
        other layers' files do not count."""
        whole = self.identity(stage, **cell)
        if not self.of_rows:
            return whole
        settings, inputs = STAGES[stage].of(self, **cell)
        others = {file_input(layer) for layer in self.layers if layer not in layers}
        return self._identity(
            stage, settings, {name: each for name, each in inputs.items() if name not in others}, cell
        )

    def _identity(self, stage: str, settings: dict, inputs: dict[str, str], cell: dict) -> str:
        again = stage in self.again or job_name(stage, **cell) in self.again
        return identity(stage, settings, self.version(stage) + " again" * again, inputs)
