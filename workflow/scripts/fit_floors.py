"""Fit the students' floors on the predicted ones of one recipe (rule fit_floors)."""

from sae_atlas.floors.fit import fit_floors
from sae_atlas.log import job_log
from sae_atlas.provenance import make_record

with job_log(snakemake.log[0]):
    settings, inputs = snakemake.params.settings, snakemake.params.inputs
    fit_floors(
        snakemake.input.floors,
        snakemake.input.students,
        snakemake.output.table,
        **settings,
        record=make_record(snakemake.rule, settings, snakemake.params.code, inputs),
        expects=inputs,
    )
