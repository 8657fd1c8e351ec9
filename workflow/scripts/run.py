"""The job of a rule whose stage's function takes the rule's own names (sae_atlas/stages/job.py)."""

from sae_atlas.stages.job import job

with job(snakemake) as run:
    run()
