"""What of an atlas lies on disk: in the end, and at most at once."""

from dataclasses import dataclass

from sae_atlas.plan.work import Work


@dataclass(frozen=True)
class Disk:
    """Bytes. `stays`: what is there at the end. `peak`: what may be there at once."""

    stays: float
    peak: float


def disk(atlas, work: list[Work]) -> Disk:
    """What stays is all that is written but activations and stores; of the resume files the last.

    On top of it, while it runs: the stores that may live at once (activations.max_live_stores), and the activations of as
    many, for a pass goes only when all its layers are sharded; and the text that contexts are taken from, and that of tasks.
    """
    written = {each.rule: each.written for each in work}
    saved, sharded = (written.pop(rule, 0.0) for rule in ("save_activations", "shard_activations"))
    text = sum(written.pop(rule, 0.0) for rule in ("save_text", "save_task_text", "save_words"))
    snapshots, resumes = len(atlas.snapshots), written.get("train_sae", 0.0) * 3 / 4
    stays = sum(written.values()) - resumes + resumes / snapshots
    longest = max(stop - start for start, stop in map(atlas.window, atlas.snapshots))
    windows = min(atlas.config["activations"]["max_live_stores"] / len(atlas.layers), snapshots)  # of all layers
    return Disk(stays, stays + windows * longest / atlas.tokens * (saved + sharded) + text)
