# The atlas three times, of a base model before and after its fine-tuning, and a page that compares them. Each atlas is the
# whole workflow as a module, with its results under its own name; the models themselves are made once, under models/.
import re
import sys
from pathlib import Path

import yaml
from snakemake.utils import min_version

min_version("9.19")

if not workflow.overwrite_configfiles:

    configfile: "config/lifecycle.yaml"


sys.path.insert(0, str(Path(str(workflow.current_basedir)).parent))

from sae_atlas.errors import AtlasError
from sae_atlas.files import hold_lock
from sae_atlas.plan.atlas import Atlas
from sae_atlas.plan.config import complete_config
from sae_atlas.plan.lifecycle import folder_of
from sae_atlas.plan.three_stages import COMPARED, identities, three_configs
from sae_atlas.provenance import code_identity, make_record


def read_configs():
    """A config and an atlas per stage; a mistake ends the run before any job starts, without a traceback."""
    with open(workflow.source_path("schemas/config.schema.yaml")) as file:
        schema = yaml.safe_load(file)
    try:
        configs = three_configs(config)
        file = str((workflow.configfiles or ["config"])[-1])
        return configs, {stage: Atlas(complete_config(each, schema, file)) for stage, each in configs.items()}
    except AtlasError as error:
        sys.exit(f"{error}")


CONFIGS, ATLASES = read_configs()
RECIPES, LAYERS = ATLASES["merged"].recipes, ATLASES["merged"].layers
MODELS = {stage: folder_of(atlas.config["base_model"]) for stage, atlas in ATLASES.items()}
COMPARISONS = {f"{before}_to_{after}": (before, after) for before, after in COMPARED}


def apart(stage):
    """Where the files of an atlas go: all but the models, which the three share."""
    return {f"{folder}/": f"{stage}/{folder}/" for folder in ("results", "models/sae", "models/releases")}


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


wildcard_constraints:
    recipe="|".join(map(re.escape, RECIPES)),
    comparison="|".join(COMPARISONS),


def side(stage, recipe):
    """Files of an atlas that are compared, by layer."""
    last = ATLASES[stage].last
    return {
        "checkpoints": [f"{stage}/results/checkpoints/{recipe}/sae_layer{layer:02d}_{last}.pt" for layer in LAYERS],
        "latents": [f"{stage}/results/metrics/{recipe}/layer{layer:02d}_latents.parquet" for layer in LAYERS],
        "held_out": f"{stage}/results/held_out.zarr",
    }


def both_sides(wildcards):
    """Inputs of a comparison: before_checkpoints, after_checkpoints, ..."""
    stages = dict(zip(("before", "after"), COMPARISONS[wildcards.comparison]))
    found = {name: side(stage, wildcards.recipe) for name, stage in stages.items()}
    return {f"{name}_{kind}": files for name, each in found.items() for kind, files in each.items()}


def both_identities(comparison, recipe):
    """What a comparison must find in its inputs."""
    return {
        name: identities(ATLASES[stage], recipe) for name, stage in zip(("before", "after"), COMPARISONS[comparison])
    }


def comparison_record(comparison, recipe):
    """Of a comparison's table: known before it is made, checked by the page."""
    settings = {"comparison": comparison, "recipe": recipe}
    code = code_identity("metrics/survival.py", "metrics/directions.py", "saes/sae.py", "saes/parts.py")
    return make_record("compare_latents", settings, code, both_identities(comparison, recipe))


rule everything:
    """Three atlases and a page per recipe that compares them."""
    default_target: True
    input:
        rules.pretrained_all.input,
        rules.lora_all.input,
        rules.merged_all.input,
        expand("results/survival/{recipe}/index.html", recipe=RECIPES),


rule compare_latents:
    """Match every latent of one atlas in another, and read one model's latents in the other model."""
    input:
        unpack(both_sides),
    output:
        table="results/survival/{recipe}/{comparison}.parquet",
    log:
        "results/logs/compare_latents/{recipe}/{comparison}.log",
    benchmark:
        "results/benchmarks/compare_latents/{recipe}/{comparison}.tsv"
    conda:
        "../envs/atlas.yaml"
    threads: 2
    resources:
        mem_mb=lambda wildcards, attempt: 6000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        layers=LAYERS,
        record=lambda wildcards: comparison_record(wildcards.comparison, wildcards.recipe),
        expects=lambda wildcards: both_identities(wildcards.comparison, wildcards.recipe),
    message:
        "compare: {wildcards.comparison}, {wildcards.recipe}"
    script:
        "scripts/compare_latents.py"


rule survival_page:
    """What survives fine-tuning: a table, a figure, the latents that change most."""
    input:
        tables=expand("results/survival/{{recipe}}/{comparison}.parquet", comparison=COMPARISONS),
        models=list(MODELS.values()),
    output:
        page="results/survival/{recipe}/index.html",
        png="results/survival/{recipe}/survival.png",
        svg="results/survival/{recipe}/survival.svg",
    log:
        "results/logs/survival_page/{recipe}.log",
    benchmark:
        "results/benchmarks/survival_page/{recipe}.tsv"
    localrule: True
    conda:
        "../envs/atlas.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 10 * attempt,
    params:
        comparisons={name: f"{before} to {after}" for name, (before, after) in COMPARISONS.items()},
        stages=list(MODELS),
        colour_map=ATLASES["merged"].config["figures"]["colour_map"],
        code=code_identity("report", "figures/survival.py", "figures/style.py"),
        expects=lambda wildcards: {name: comparison_record(name, wildcards.recipe)["identity"] for name in COMPARISONS},
    message:
        "page: {output.page}"
    script:
        "scripts/survival_page.py"


onstart:
    try:
        hold_lock("results/.lock")
    except BlockingIOError:
        sys.exit(f"{Path('results').absolute()}: another run is at work here; wait for it or stop it first.")
