"""An SAE against the true features of a synthetic world: directions, firing, and what the hierarchy of the features does.

Where SAELens has a metric of the name (sae_lens/synthetic/evals.py), it is the same number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array, hstack, vstack

from sae_atlas.io.devices import resolve
from sae_atlas.io.log import progress
from sae_atlas.io.tables import write_rows
from sae_atlas.metrics.active import Active
from sae_atlas.metrics.bootstrap import confidence_interval, drawn_sums, resampled
from sae_atlas.metrics.directions import unit
from sae_atlas.metrics.evaluate import METRIC_COLUMNS
from sae_atlas.metrics.held_out import HeldOut, open_held_out
from sae_atlas.metrics.labels import METRICS
from sae_atlas.saes.sae import Sae
from sae_atlas.synthetic.truth import Truth, read_truth

FOUND = 0.5  # cosine with a child from which its latent is the child's, and not one that was left over
# How much more of a parent's direction than its own true one a child's latent carries, from which it absorbs.
ABSORBED = 0.1
NAN = float("nan")


def known_truth(
    base_model: str | Path,
    held_out: str | Path,
    checkpoints: Sequence[str | Path],
    snapshots: Sequence[str],
    table: str | Path,
    recipe: str,
    layer: int,
    contexts_per_batch: int,
    device: str = "auto",
) -> None:
    """Write the metrics of the `checkpoints` of one layer, which are its `snapshots`, against the truth of its world.

    base_model: the provenance that the truth lies beside; held_out: the folder of the layer's held-out data. Intervals:
    bootstrap over contexts.
    """
    truth, source = read_truth(Path(base_model).parent, layer), open_held_out(Path(held_out).parent)
    ids = source.rows("tokens")[:]
    firing, context = truth.active(ids.ravel()), np.arange(len(ids)).repeat(ids.shape[1])
    rows = []
    with torch.inference_mode(), progress(len(ids) * len(snapshots), "contexts", f"layer{layer:02d}") as bar:
        for snapshot, path in zip(snapshots, checkpoints, strict=True):
            sae = Sae.load(path).to(resolve(device))
            fires = fired(sae, source, f"layer{layer:02d}", contexts_per_batch, bar.update)
            sae.to("cpu")
            about = {"recipe": recipe, "layer": layer, "snapshot": snapshot, "tokens": sae.config["tokens"]}
            rows += [about | row for row in measured(sae.W_dec, fires, firing, truth, context)]
    write_rows(table, rows, METRIC_COLUMNS)


def fired(sae: Sae, source: HeldOut, name: str, contexts_per_batch: int, update) -> csr_array:
    """Which latents are active in the held-out rows, 1 where they are, float64 [rows, d_sae]."""
    site, parts = source.rows(f"{name}/site"), []
    for first in range(0, site.shape[0], contexts_per_batch):
        x = torch.from_numpy(site[first : first + contexts_per_batch])
        active = Active.of(sae.encode(x.flatten(0, 1).to(sae.b_dec.device))).cpu()
        entries = np.ones(len(active.token)), (active.token.numpy(), active.latent.numpy())
        parts.append(csr_array(entries, shape=(active.tokens, active.d_sae)))
        update(len(x))
    return vstack(parts, format="csr")


def measured(
    decoder: torch.Tensor, fires: csr_array, firing: csr_array, truth: Truth, context: np.ndarray
) -> list[dict]:
    """Rows of the table of metrics of one SAE: metric, value, low, high, unit, held_out_tokens.

    decoder: rows [d_sae, d]; fires, firing: which latents and true features are active, [rows, ...]; context: of every row.
    """
    match = matches(cosines(decoder, truth.directions))
    firing_rows = _firing_rows(fires, firing, match.closest, context)
    sums = {"tokens": np.ones(len(context)), "l0": fires.sum(axis=1), "true_l0": firing.sum(axis=1)}
    if (truth.parent >= 0).any():
        sums |= absorption_sums(match, fires, firing, truth)
    per_context = {name: np.bincount(context, each) for name, each in sums.items()}
    drawn = resampled(per_context)
    whole = {name: each.sum() for name, each in per_context.items()}
    rows = [("mcc", mcc(match), NAN, NAN), ("uniqueness", uniqueness(match), NAN, NAN), *firing_rows]
    rows.append(("splitting", splitting(match, fires.sum(axis=0) > 0), NAN, NAN))
    ratios = {"true_l0": true_l0, "l0_of_true": l0_of_true} | (
        {"parent_absorption": absorption} if "parents" in sums else {}
    )
    rows += [(name, ratio(whole), *confidence_interval(ratio(drawn))) for name, ratio in ratios.items()]
    return [
        {"metric": name, "value": float(value), "low": low, "high": high, "unit": METRICS[name].unit}
        | {"held_out_tokens": len(context)}
        for name, value, low, high in rows
    ]


# --- directions -------------------------------------------------------------------------------------------------------


def cosines(decoder: torch.Tensor, directions: np.ndarray) -> np.ndarray:
    """Cosine of every latent's decoder row [d_sae, d] with every true direction [features, d], float64 [d_sae, features]."""
    return (unit(decoder.double()) @ unit(torch.from_numpy(directions).double()).T).numpy()


@dataclass(frozen=True)
class Matches:
    """cosine: [d_sae, features]; closest: true feature of the largest |cosine| of every latent; latent_of: latent that the best
    one-to-one assignment gives to every feature, -1 where there are fewer latents than features."""

    cosine: np.ndarray
    closest: np.ndarray
    latent_of: np.ndarray


def matches(cosine: np.ndarray) -> Matches:
    """The assignment has the largest sum of |cosine| that there is (Kuhn 1955, `scipy.optimize.linear_sum_assignment`)."""
    latents, features = linear_sum_assignment(np.abs(cosine), maximize=True)
    latent_of = np.full(cosine.shape[1], -1)
    latent_of[features] = latents
    return Matches(cosine, np.abs(cosine).argmax(axis=1), latent_of)


def mcc(match: Matches) -> float:
    """Mean correlation coefficient: mean |cosine| of the pairs of latents and true features that are assigned to each other.

    0 to 1, 1 for the true directions in any order and sign. Of as many pairs as there are latents or features, whichever are
    fewer (arXiv 2505.20254; SAELens' `mean_correlation_coefficient`).
    """
    features = np.flatnonzero(match.latent_of >= 0)
    return float(np.abs(match.cosine[match.latent_of[features], features]).mean())


def uniqueness(match: Matches) -> float:
    """True features that are the closest to some latent, over latents: above 0 to 1, which says that no two latents share one
    (SAELens' `feature_uniqueness`)."""
    return len(np.unique(match.closest)) / len(match.closest)


def splitting(match: Matches, alive: np.ndarray) -> float:
    """Mean number of alive latents that are closest to one true feature, over the features that have any; 1 or more.

    Feature splitting (Bricken et al. 2023) writes one feature by several latents. alive: bool [d_sae]; NaN where none is.
    """
    counts = np.bincount(match.closest[alive])
    return float(counts[counts > 0].mean()) if alive.any() else NAN


# --- firing -----------------------------------------------------------------------------------------------------------


def _firing_rows(fires: csr_array, firing: csr_array, closest: np.ndarray, context: np.ndarray) -> list[tuple]:
    """Precision, recall and F1 with their intervals."""
    expected = firing[:, closest]
    grouped = csr_array((np.ones(len(context)), (context, np.arange(len(context)))))  # rows to contexts
    added = grouped @ hstack([fires.multiply(expected), fires, expected], format="csr")
    value = classification(*np.split(np.asarray(added.sum(axis=0)), 3))
    drawn = np.array([classification(*np.split(sums, 3)) for sums in drawn_sums(added)])
    ends = [confidence_interval(each) for each in drawn.T] if len(drawn) else [(NAN, NAN)] * 3
    return [(name, each, *end) for name, each, end in zip(("precision", "recall", "f1"), value, ends, strict=True)]


def classification(both: np.ndarray, fires: np.ndarray, expected: np.ndarray) -> tuple[float, float, float]:
    """Precision, recall and F1 of every latent as a detector of the true feature it is closest to, each a mean over latents.

    both, fires, expected: rows in which latent and feature, the latent, and the feature are active, [d_sae]. 0 to 1; a latent
    for which one is not defined, as a dead one, counts as 0 (SAELens' `ClassificationMetricsCalculator`).
    """
    precision = np.divide(both, fires, out=np.zeros(len(both)), where=fires > 0)
    recall = np.divide(both, expected, out=np.zeros(len(both)), where=expected > 0)
    total = precision + recall
    f1 = np.divide(2 * precision * recall, total, out=np.zeros(len(both)), where=total > 0)
    return float(precision.mean()), float(recall.mean()), float(f1.mean())


def true_l0(sums: dict) -> float:
    """Mean number of true features that are active in a held-out row; 0 or more."""
    return sums["true_l0"] / sums["tokens"]


def l0_of_true(sums: dict) -> float:
    """L0 of the SAE over the true L0; 0 or more, 1 where as many latents are active as features."""
    return sums["l0"] / sums["true_l0"]


# --- hierarchy --------------------------------------------------------------------------------------------------------


def absorption_sums(match: Matches, fires: csr_array, firing: csr_array, truth: Truth) -> dict[str, np.ndarray]:
    """What `absorption` is made of, per row: `parents` that are active with a child of theirs, and `absorbed`, those of them
    whose own latent is silent while one that absorbs them is active."""
    children = np.flatnonzero(truth.parent >= 0)
    parents, index = np.unique(truth.parent[children], return_inverse=True)
    true_cosine = np.einsum("cd,cd->c", truth.directions[children], truth.directions[truth.parent[children]])
    latent = match.latent_of[children]
    excess = match.cosine[latent, truth.parent[children]] - true_cosine
    absorbs = (latent >= 0) & (match.cosine[latent, children] >= FOUND) & (excess >= ABSORBED)
    to_parent = csr_array(
        (np.ones(len(children)), (np.arange(len(children)), index)), shape=(len(children), len(parents))
    )
    own = match.latent_of[parents]
    with_child = (firing[:, children] @ to_parent).multiply((own >= 0)[None, :]).astype(bool)
    caught = firing[:, children[absorbs]].multiply(fires[:, latent[absorbs]])
    caught = (caught @ to_parent[absorbs]).astype(bool)
    caught = caught.multiply(with_child)
    absorbed = caught.sum(axis=1) - caught.multiply(fires[:, own].astype(bool)).sum(axis=1)
    return {"parents": with_child.sum(axis=1), "absorbed": absorbed}


def absorption(sums: dict) -> float:
    """Share of the times that a parent is active together with a child in which the child's latent stands for it. 0 to 1.

    Then the parent's own latent is silent, and that of an active child is active, is the child's (its cosine with it is FOUND
    or more) and carries the parent's direction: its cosine with that is ABSORBED or more above that of the child's true
    direction. Latents are those of the one-to-one assignment; parents without one do not count, and without any it is NaN.
    After feature absorption of arXiv 2409.14507, whose probe of a concept is here the parent's true direction.
    """
    parents = np.asarray(sums["parents"], float)
    return np.divide(sums["absorbed"], parents, out=np.full_like(parents, NAN), where=parents > 0)
