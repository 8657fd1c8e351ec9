"""Command line: `sae-atlas plan` says what a config will take, `summary` what a finished atlas holds and where to look."""

import argparse
import sys
from pathlib import Path

from sae_atlas.errors import AtlasError

SCHEMA = Path(__file__).parents[1] / "workflow" / "schemas" / "config.schema.yaml"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="sae-atlas", description="A sparse autoencoder for every layer and snapshot.")
    commands = parser.add_subparsers(dest="command", required=True)
    summary = commands.add_parser("summary", help="what a finished atlas holds and where to look")
    summary.add_argument("folder", nargs="?", default=".", help="where the workflow ran")
    plan = commands.add_parser("plan", help="jobs, disk, arithmetic and time of a config; beside them what a run took")
    plan.add_argument("config", nargs="?", default="config/config.yaml")
    plan.add_argument("--directory", default=".", help="where the workflow runs or ran")
    plan.add_argument("--gpu", default="H200", help="a GPU to compare with: L4, RTX4090, A100, H100, H200")
    plan.add_argument("--cores", type=int, help="default: all")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "plan":
            from sae_atlas.plan.show import show_plan

            show_plan(chosen.config, SCHEMA, chosen.directory, chosen.gpu, chosen.cores)
        else:
            from sae_atlas.summary import summarise

            print(summarise(chosen.folder))
    except AtlasError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
