# The inputs of rules: which stage makes a file, for what, and whether it is asked for again.
import json
from functools import cache

from sae_atlas.stages import STAGES
from sae_atlas.stages.atlas import job_name
from sae_atlas.stages.versions import changed_code
from sae_atlas.io.provenance import read_record

# Stages whose outputs are temporary. Their jobs stay in the graph, or nobody would remove the outputs after use.
USED_UP = ("save_activations", "shard_activations", "save_text", "save_task_text", "save_words")
COLLECTING = ("collect_metrics", "collect_recipes")  # whose tables carry the identities of what is collected


def needs(paths, stage=None, by_time=False):
    """Inputs of a rule: a path with wildcards, a list of paths, or a function of the wildcards that returns one of these.

    stage: that makes them, for paths that no rule here makes.
    by_time: for outputs that carry no identity (`current_or_made`).
    """

    def inputs(wildcards):
        chosen = paths(wildcards) if callable(paths) else paths
        many = not isinstance(chosen, str)
        filled = [path.format(**dict(wildcards.items())) for path in (chosen if many else [chosen])]
        named = [_needed(path, stage, by_time) for path in filled]
        return named if many else named[0]

    return inputs


def _needed(path, stage, by_time):
    made_by = (stage, {}) if stage else maker(PATHS.modify(path))
    if made_by is None:
        return path
    stage, of = made_by
    MUST_CARRY[PATHS.modify(path)] = _identities(atlas, stage, of)
    return current_or_made(path, _identities(wanted(), stage, of), stage in USED_UP, by_time)


def _identities(atlas, stage, of):
    """Identities that an output of the stage carries; of a collected table the list of them, so that it holds no others."""
    if stage in COLLECTING:
        return [json.dumps(list(atlas.inputs(stage, **of).values()))]
    return [atlas.identity(stage, **of)]


def job(stage, **arguments):
    """The params of a job (sae_atlas/stages/job.py). arguments: of the stage's function, beside the rule's files and the
    stage's settings, as values or functions of the wildcards."""

    def depends(wildcards):
        of = {name: value for name, value in atlas_arguments(wildcards).items() if name in STAGES[stage].cell}
        depends_on = {"settings": atlas.settings(stage, **of), "inputs": atlas.inputs(stage, **of)}
        function = {"runs": atlas.runs(stage), "arguments": _arguments(arguments, wildcards)}
        code = {"modules": STAGES[stage].modules, "version": atlas.version(stage)}
        return {"stage": stage, **depends_on, **function, **code}

    return {"job": depends, "expects": expected}


def export_for_others(function, **arguments):
    """The params of a job whose output is for other programs and carries no record. function: as `runs` of a stage."""

    def runs(wildcards):
        return {"stage": None, "runs": function, "arguments": _arguments(arguments, wildcards)}

    return {"job": runs, "expects": expected}


def _arguments(arguments, wildcards):
    return {name: value(wildcards) if callable(value) else value for name, value in arguments.items()}


@cache
def first_to_train(recipe, layer):
    """Place in its chain of the first snapshot that will be trained: after the last resume point there is before one missing."""

    def is_current(snapshot, *suffixes):
        stage = atlas.checkpoint_rule(recipe, snapshot)
        identity = wanted().identity(stage, recipe=recipe, layer=layer, snapshot=snapshot)
        stem = f"results/checkpoints/{recipe}/sae_layer{layer:02d}_{snapshot}"
        return all(carries(PATHS.modify(f"{stem}{suffix}"), [identity]) for suffix in suffixes)

    snapshots, kept = atlas.chain(recipe), atlas.kept_resume_point(recipe)
    suffixes = {kept: (".pt", ".resume.pt")}
    whole = [is_current(snapshot, *suffixes.get(snapshot, [".pt"])) for snapshot in snapshots]
    missing = whole.index(False) if False in whole else len(whole)
    if missing == len(whole):
        return missing
    return next((place for place in range(missing, 0, -1) if is_current(snapshots[place - 1], ".resume.pt")), 0)


def freed(wildcards):
    """Checkpoints whose training frees the disk of an earlier pass. Only those that are trained in this run are waited for."""

    def named(recipe, layer, snapshot):
        snapshot = atlas.trained_to(recipe, snapshot)
        path = f"results/checkpoints/{recipe}/sae_layer{layer:02d}_{snapshot}.pt"
        waited_for = atlas.chain(recipe).index(snapshot) >= first_to_train(recipe, layer)
        return path if waited_for else ancient(before_update(path))

    return [
        named(recipe, layer, snapshot)
        for recipe in atlas.trained
        for layer, snapshot in atlas.freed_by(**atlas_arguments(wildcards))
        if snapshot in atlas.snapshots_of(recipe)
    ]


@cache
def maker(path):
    """The stage whose rule makes a path (as it lies on disk), and the arguments it is made for; None for files of others."""
    for stage, declared in STAGES.items():
        if not rules.has(stage):
            continue
        for output in getattr(rules, stage).rule.output:
            if match := output.match(path):
                found = atlas_arguments(match.groupdict())
                return stage, {name: value for name, value in found.items() if name in declared.cell}
    return None


@cache
def wanted():
    """The atlas with identities that nothing on disk has where a job is asked for again (--forceall, --forcerun, -f)."""
    tell_of_other_code()
    asked = workflow.dag_settings
    again = set(STAGES) if asked.forceall else set()
    again |= {stage for stage in STAGES if rules.has(stage) and getattr(rules, stage).rule.name in asked.forcerun}
    files = [*asked.forcerun, *(asked.targets if asked.forcetargets else ())]
    again |= {job_name(made_by[0], **made_by[1]) for file in files if (made_by := maker(file))}
    return Atlas(atlas.config, atlas.begun_with, again, atlas.contents) if again else atlas


def records():
    """Records of what is there, of the stages that take long: the others' outputs hold their identity alone."""
    folders = ("base_model/*", "corpus/*.zarr/zarr", "checkpoints/*/*", "metrics/*/layer*")
    for pattern in folders:
        yield from map(read_record, Path().glob(str(PATHS.modify(f"results/{pattern}.json"))))


def tell_of_other_code():
    """Where the run was started: which stages' code is another than that which made what is there."""
    if workflow.is_main_process and (stages := changed_code(records())):
        print(
            f"{', '.join(stages)}: made by other code than there is now, of the same version, and kept as it is. Where you"
            f" changed what is computed, make it again: --forcerun {' '.join(stages)}",
            file=sys.stderr,
        )
