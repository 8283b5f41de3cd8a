"""``warmswap compile``: make a repository ready for this machine."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from warmswap_ops.compiling.build import Compiled

HELP: str = "compile the graphs of a model repository for this machine, into a repository of its own"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``warmswap compile``."""
    parser.add_argument(
        "--repository",
        type=Path,
        help="exported repository, only read (default: $WARMSWAP_REPOSITORY, ./model_repository, or the checkout's)",
    )
    parser.add_argument("--out", type=Path, required=True, help="compiled repository to make, or to bring up to date")
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="compiled graphs by key (default: $WARMSWAP_COMPILE_CACHE, or ~/.cache/warmswap/compiled)",
    )
    parser.add_argument("--force", action="store_true", help="compile again, whatever is there")
    parser.add_argument(
        "--wait",
        type=float,
        default=900.0,
        metavar="S",
        help="for other processes that compile the same (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Compile; print what became of it.

    Raises:
        OpsError: see ``build.compile_repository``.
    """
    import os

    from warmswap_ops.compiling.build import CompileOptions, compile_repository
    from warmswap_ops.phases import Stopwatch
    from warmswap_ops.repository import find_repository

    def say(line: str) -> None:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()

    stopwatch = Stopwatch()
    repository = find_repository(args.repository, os.environ)
    compiled = compile_repository(
        CompileOptions(repository, args.out, args.cache, force=args.force, wait_s=args.wait, say=say)
    )
    ms = stopwatch.total_ms()
    print(json.dumps(compiled.as_json() | {"ms": round(ms, 1)}) if args.json else _as_text(compiled, ms))
    return 0


def _as_text(compiled: Compiled, ms: float) -> str:
    versions = [
        f"{facts['model']} {facts['version']}: {'compiled' if facts['cache'] == 'made' else 'from the cache'}"
        for facts in compiled.versions
    ]
    return "\n".join([*versions, f"{compiled.out}: {'up to date' if compiled.up_to_date else 'written'} ({ms:.0f} ms)"])
