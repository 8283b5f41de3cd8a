"""``warmswap verify``: hold the models of a repository to their references once more."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Final

from warmswap_export.commands.export import add_weight_arguments, show_progress

HELP: Final = "check a repository's models: sha256, contract, and parity with their references"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--repository", type=Path, default=Path("model_repository"), help="what to check (default: %(default)s)"
    )
    parser.add_argument("--stage", action="append", default=[], help="only this model; may be given several times")
    parser.add_argument(
        "--pack", type=Path, action="append", default=[], metavar="TOML", help="pack file of your own, for its versions"
    )
    add_weight_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(args: argparse.Namespace) -> int:
    """Verify every version and return 0 only if all of them pass.

    Raises:
        ExportError: there is nothing to verify, or a pack file is wrong.
    """
    from warmswap_export.sources import WeightOptions
    from warmswap_export.verify import verify_repository

    weights = WeightOptions(tuple(args.weights), args.accept_unpinned)
    results = verify_repository(args.repository, args.stage, weights, [str(path) for path in args.pack], show_progress)
    if args.json:
        print(json.dumps({"versions": [result.as_json() for result in results]}))
    else:
        for result in results:
            print(f"{result.model} {result.version}: {'ok' if result.passed else 'FAILED'}")
            for line in result.lines():
                print(f"  {line}")
    return 0 if all(result.passed for result in results) else 1
