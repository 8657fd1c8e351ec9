"""Command line: `sae-atlas summary` says what a finished atlas holds and where to look."""

import argparse
import sys

from sae_atlas.errors import AtlasError


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="sae-atlas", description="A sparse autoencoder for every layer and snapshot.")
    commands = parser.add_subparsers(dest="command", required=True)
    summary = commands.add_parser("summary", help="what a finished atlas holds and where to look")
    summary.add_argument("folder", nargs="?", default=".", help="where the workflow ran")
    chosen = parser.parse_args(arguments)
    try:
        from sae_atlas.summary import summarise

        print(summarise(chosen.folder))
    except AtlasError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
