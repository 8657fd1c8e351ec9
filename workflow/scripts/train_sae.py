"""Train one SAE on one window (rule train_sae)."""

from pathlib import Path

from sae_atlas.files import write_json
from sae_atlas.log import job_log
from sae_atlas.plan.stages.versions import record_of
from sae_atlas.tracking import tracked

with job_log(snakemake.log[0]):
    from sae_atlas.training.train import train

    settings, inputs = snakemake.params.settings, snakemake.params.inputs
    record = record_of("train_sae", settings, snakemake.params.version, inputs)
    # Not a param: what watches the training changes no number, and must not make it run again.
    tracker = snakemake.config["training"].get("tracker")
    cell = snakemake.wildcards
    run = f"{cell.recipe}/layer{cell.layer}"
    with tracked(tracker, run, cell.snapshot, Path(snakemake.output.curve).parents[2] / "tracker") as watch:
        train(
            store=snakemake.input.store,
            previous=snakemake.input.get("previous") or None,
            **settings,
            checkpoint=snakemake.output.checkpoint,
            resume=snakemake.output.resume,
            curve=snakemake.output.curve,
            record=record,
            expects=inputs,
            threads=snakemake.threads,
            watch=watch,
            device=snakemake.resources.device,
        )
    write_json(snakemake.output.record, {"record": record})
