"""``warmswap provision``: bring a model repository onto this node, for an init container."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

HELP: str = "copy a model repository into a cache of this node, verified and switched to at once"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``warmswap provision``."""
    parser.add_argument("--from", dest="source", required=True, metavar="SRC", help="folder, .tar[.gz], or its URL")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="cache; serve DIR/current")
    parser.add_argument("--sha256", metavar="HEX", help="of the archive (a URL needs it), or the digest of a folder")
    parser.add_argument(
        "--keep", type=int, default=2, metavar="N", help="repositories that stay (default: %(default)s)"
    )
    parser.add_argument(
        "--wait", type=float, default=900.0, metavar="S", help="for another process at work (default: %(default)s)"
    )
    parser.add_argument(
        "--once",
        action="store_true",
        help="leave a repository that is there as it is: for a copy that hot rollouts write to",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Provision; print what became of it.

    Raises:
        OpsError: see ``store.provision``.
    """
    from warmswap_ops.provisioning.store import provision

    total = 0

    def progress(count: int) -> None:
        nonlocal total
        total += count
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{total / 1e6:.0f} MB")

    done = provision(
        args.source, args.to, args.sha256, keep=args.keep, wait_s=args.wait, progress=progress, once=args.once
    )
    if total and sys.stderr.isatty():
        sys.stderr.write("\n")
    if args.json:
        print(json.dumps(asdict(done) | {"path": str(done.path), "bytes": total}))
    else:
        there = "was there, left as it is" if args.once else "was there, unharmed"
        print(f"{done.path}: {f'written, {total / 1e6:.1f} MB' if done.copied else there}")
    return 0
