# SAE Atlas: a sparse autoencoder for every layer of a language model, at every training snapshot.
from snakemake.utils import min_version

min_version("9.19")


# A config named on the command line stands alone; it is not merged with the default.
if not workflow.overwrite_configfiles:

    configfile: "config/config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/current.smk"
include: "workflow/rules/alone.smk"
include: "workflow/rules/common.smk"
include: "workflow/rules/inputs.smk"
include: "workflow/rules/base_model.smk"
include: "workflow/rules/restoration.smk"
include: "workflow/rules/corpus.smk"
include: "workflow/rules/lifecycle.smk"
include: "workflow/rules/activations.smk"
include: "workflow/rules/training.smk"
include: "workflow/rules/evaluation.smk"
include: "workflow/rules/tasks.smk"
include: "workflow/rules/floors.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/publishing.smk"
include: "workflow/rules/features.smk"
include: "workflow/rules/names.smk"
include: "workflow/rules/explorer.smk"
include: "workflow/rules/report.smk"


rule all:
    """The whole atlas: tables, figures, a card for every final SAE, a release folder for every recipe, a page of it all."""
    default_target: True
    input:
        needs(["results/metrics.parquet", *PICTURES, *CARDS, "models/sae/README.md"]),
        needs(expand("models/releases/{release}/README.md", release=RELEASES)),
        needs([*EXPLORER, *FEATURES]),
        # Resume points are temporary; asked for here, the last ones stay, so that a longer run can append.
        needs(RESUME_POINTS),
        page=needs("results/index.html"),
    message:
        "all: the whole atlas, see {input.page}"
