"""Measure all snapshots of one layer on held-out text (rule evaluate_sae)."""

from pathlib import Path

from sae_atlas.stages.job import job

with job(snakemake) as run:
    run()
    # Snakemake removes a resume point after the next snapshot's training; not one that was there before the run began.
    for checkpoint in map(Path, snakemake.input.checkpoints[:-1]):
        if not checkpoint.stem.endswith(f"_{snakemake.params.kept_resume_point}"):
            checkpoint.with_suffix(".resume.pt").unlink(missing_ok=True)
