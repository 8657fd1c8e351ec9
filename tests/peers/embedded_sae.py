"""An SAE of one layer of the embedded model, trained on a little of its text and exported for SAELens."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.real import Real, default, default_recipe
from sae_atlas.io.files import read_json
from sae_atlas.publish.formats import saelens
from sae_atlas.publish.formats.metadata import metadata
from sae_atlas.saes.sae import Sae

LAYER, BATCH = 14, 4
EVALUATION = {"tokens": 1000, "patched_tokens": 1000, "contexts_per_batch": BATCH, "outlier_norm": 10}


@dataclass(frozen=True)
class Trained:
    """`checkpoint` in `folder`, whose metrics are in metrics.json there; `exported`: SAELens' pair; `model`: folder that
    TransformerLens loads the model from, `provenance`: ours; `held_out`: what was measured on.
    """

    folder: Path
    checkpoint: Path
    exported: Path
    model: Path
    provenance: Path
    held_out: Path


def train(folder: Path) -> Trained:
    real = Real(folder, default(8_000, layers=[LAYER]) | {"evaluation": EVALUATION})
    real.train(default_recipe()[1] | {"expansion": 4, "warmup": 5}, real.store(), folder / "sae.pt")
    real.evaluate({"final": folder / "sae.pt"})
    sae, model = Sae.load(folder / "sae.pt"), real.model.parent / read_json(real.model)["path"]
    saelens.write(folder / "sae", sae, metadata(sae.config) | {"model_name": str(model)})
    return Trained(folder, folder / "sae.pt", folder / "sae", model, real.model, real.held_out)
