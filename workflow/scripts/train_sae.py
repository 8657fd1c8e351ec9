"""Train one SAE on one window (rules train_sae, finetune_sae), watched by the tracker that the config names."""

from pathlib import Path

from sae_atlas.stages.job import job
from sae_atlas.training.tracking import tracked

with job(snakemake) as run:
    # Not a param: what watches the training changes no number, and must not make it run again.
    tracker = snakemake.config["training"].get("tracker")
    cell = snakemake.wildcards
    folder = Path(snakemake.output.curve).parents[2] / "tracker"
    with tracked(tracker, f"{cell.recipe}/layer{cell.layer}", cell.snapshot, folder) as watch:
        run(watch=watch)
