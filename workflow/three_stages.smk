# The atlas three times, of a base model before and after its fine-tuning, and a page that compares them. Each atlas is the
# whole workflow as a module, with its results under its own name; the models themselves are made once, under models/.
from snakemake.utils import min_version

min_version("9.19")

if not workflow.overwrite_configfiles:

    configfile: "config/lifecycle.yaml"


include: "rules/current.smk"
include: "rules/alone.smk"
include: "rules/three_common.smk"
include: "rules/survival.smk"


module pretrained:
    snakefile:
        "../Snakefile"
    config:
        CONFIGS["pretrained"]
    replace_prefix:
        apart("pretrained")


module lora:
    snakefile:
        "../Snakefile"
    config:
        CONFIGS["lora"]
    replace_prefix:
        apart("lora")


module merged:
    snakefile:
        "../Snakefile"
    config:
        CONFIGS["merged"]
    replace_prefix:
        apart("merged")


use rule * from pretrained as pretrained_*


use rule * from lora exclude pretrain as lora_*


use rule * from merged exclude pretrain, fine_tune_lora as merged_*


rule everything:
    """Three atlases and a page per recipe that compares them."""
    default_target: True
    input:
        rules.pretrained_all.input,
        rules.lora_all.input,
        rules.merged_all.input,
        pages=pages,
    message:
        "all: the three atlases; what survives, see {input.pages}"
