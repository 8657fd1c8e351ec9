"""Command line: what a config will take and a finished atlas holds; the index, other formats and the hub."""

import argparse
import os
import sys

from sae_atlas.io.errors import AtlasError

WRITTEN = ("saelens", "sparsify", "dictionary_learning", "safetensors")
ALL_LAYERS = "circuit_tracer"  # a format that holds the transcoders of all layers


def _summary(chosen: argparse.Namespace) -> None:
    from sae_atlas.commands.summary import summarise

    print(summarise(chosen.folder))


def _plan(chosen: argparse.Namespace) -> None:
    from sae_atlas.plan.show import show_plan

    show_plan(chosen.config, chosen.directory, chosen.gpu, chosen.cores)


def _check(chosen: argparse.Namespace) -> None:
    from sae_atlas.config.read import read_config
    from sae_atlas.plan.site_check import check_config
    from sae_atlas.stages.contents import local_contents

    config = read_config(chosen.config)
    local_contents(config, chosen.config, records=[], memory=None)  # the files that it names are there
    check_config(config, chosen.config)
    print(f"{chosen.config}: is right")


def _schema(chosen: argparse.Namespace) -> None:
    import json

    from sae_atlas.config.sections import Config

    print(json.dumps(Config.model_json_schema(), indent=2))


def _sites(chosen: argparse.Namespace) -> None:
    from sae_atlas.commands.sites import list_sites

    print(list_sites(chosen.model, chosen.directory))


def _releases(chosen: argparse.Namespace) -> None:
    from sae_atlas.commands.releases import list_releases

    print(list_releases(chosen.word))


def _index(chosen: argparse.Namespace) -> None:
    from sae_atlas.publish.index import index

    print(index(chosen.models), end="")


def _latents(chosen: argparse.Namespace) -> None:
    from sae_atlas.commands.latents import ORDERS, clearest, describe

    if chosen.latent is not None:
        if chosen.layer is None:
            raise AtlasError("--latent: which layer? Add --layer")
        print(describe(chosen.folder, chosen.layer, chosen.latent))
    else:
        latents = clearest(chosen.folder, chosen.by, chosen.layer, chosen.rows)
        print(f"The first by {ORDERS[chosen.by]}.")
        print(latents.to_string(index=False, float_format="{:.3f}".format))


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def _export(chosen: argparse.Namespace) -> None:
    if chosen.format == ALL_LAYERS:
        from sae_atlas.publish.formats.circuit_tracer import export_release

        export_release(chosen.sae, chosen.folder)
    else:
        from sae_atlas.publish.formats.load import export

        export(chosen.sae, chosen.format, chosen.folder)


def _push(chosen: argparse.Namespace) -> None:
    from sae_atlas.publish.hub import push

    print(push(chosen.folder, chosen.repo_id, chosen.dry_run))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="sae-atlas", description="A sparse autoencoder for every layer and snapshot.")
    commands = parser.add_subparsers(dest="command", required=True)
    summary = commands.add_parser("summary", help="what a finished atlas holds and where to look")
    summary.add_argument("folder", nargs="?", default=".", help="where the workflow ran")
    summary.set_defaults(run=_summary)
    plan = commands.add_parser("plan", help="jobs, disk, arithmetic and time of a config; beside them what a run took")
    plan.add_argument("config", nargs="?", default="config/config.yaml")
    plan.add_argument("--directory", default=".", help="where the workflow runs or ran")
    plan.add_argument("--gpu", default="H200", help="a GPU to compare with: L4, RTX4090, A100, H100, H200")
    plan.add_argument("--cores", type=_count, help="default: all")
    plan.set_defaults(run=_plan)
    check = commands.add_parser("check", help="is a config right? Nothing that it may hold is run")
    check.add_argument("config", nargs="?", default="config/config.yaml")
    check.set_defaults(run=_check)
    schema = commands.add_parser(
        "schema", help="print the JSON schema of configs, for editors that check what is typed"
    )
    schema.set_defaults(run=_schema)
    sites = commands.add_parser("sites", help="where a model can be read: sites, module paths, widths, saved layers")
    sites.add_argument("model", help="a config file, a folder in transformers format, an embedded model or a hub id")
    sites.add_argument("--directory", default=".", help="where a run saved activations: their norms and dimensions")
    sites.set_defaults(run=_sites)
    releases = commands.add_parser("releases", help="published SAEs that a recipe may name: releases, or those of one")
    releases.add_argument("word", nargs="?", help="in name, repository or model; the name of a release: its SAEs")
    releases.set_defaults(run=_releases)
    index = commands.add_parser(
        "index", help="list all published SAEs; fail where name, config, weights or card disagree"
    )
    index.add_argument("models", nargs="?", default="models", help="the folder that holds sae/")
    index.set_defaults(run=_index)
    latents = commands.add_parser("latents", help="latents that are most clearly about something; or one of them")
    latents.add_argument("folder", help="results/features/RECIPE")
    orders = ("specificity", "detection", "topic")
    latents.add_argument(
        "--by", choices=orders, default=orders[0], help="what makes a latent clear; the output says it"
    )
    latents.add_argument("--layer", type=int, help="default: all that were looked at")
    latents.add_argument("--latent", type=int, help="show this one, with its contexts")
    latents.add_argument("--rows", type=_count, default=10, help="how many of them")
    latents.set_defaults(run=_latents)
    export = commands.add_parser("export", help="write an SAE in the format of another library")
    export.add_argument(
        "sae",
        help="a published folder, a checkpoint, or an SAE in any format that is read; for circuit_tracer a release folder of "
        "transcoders",
    )
    export.add_argument("format", choices=(*WRITTEN, ALL_LAYERS))
    export.add_argument("folder", help="where its files go")
    export.set_defaults(run=_export)
    push = commands.add_parser("push", help="publish a release folder, or the folder of one SAE, on the hub")
    push.add_argument("folder", help="models/releases/NAME or models/sae/NAME")
    push.add_argument("--repo-id", required=True, help="owner/name of the model repository; made if it is not there")
    push.add_argument("--dry-run", action="store_true", help="list the files and their sizes, upload nothing")
    push.set_defaults(run=_push)
    chosen = parser.parse_args(arguments)
    sys.stdout.reconfigure(errors="backslashreplace")  # as stderr is: the terminal's encoding may lack a character
    try:
        chosen.run(chosen)
        sys.stdout.flush()
    except AtlasError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader, `head` or a pager, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at its end
    return 0


if __name__ == "__main__":
    sys.exit(main())
