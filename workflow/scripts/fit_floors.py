"""Fit the students' floors on the predicted ones of one recipe (rule fit_floors)."""

from sae_atlas.floors.fit import fit_floors
from sae_atlas.log import job_log
from sae_atlas.plan.stages.versions import record_of

with job_log(snakemake.log[0]):
    settings, inputs = snakemake.params.settings, snakemake.params.inputs
    fit_floors(
        snakemake.input.floors,
        snakemake.input.students,
        snakemake.output.table,
        **settings,
        record=record_of("fit_floors", settings, snakemake.params.version, inputs),
        expects=inputs,
    )
