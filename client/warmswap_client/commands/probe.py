"""``warmswap probe``: one real, tiny swap. Exit code 0 only if a face was really swapped."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Final

from warmswap_client.client import FaceSwapClient
from warmswap_client.commands._arguments import add_server_arguments, given_tls, positive_seconds
from warmswap_client.probe import probe

HELP: Final = "swap a tiny shipped picture for real, and judge the answer"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_server_arguments(parser)
    parser.add_argument(
        "--max-latency", type=positive_seconds, metavar="SECONDS", help="a right answer that takes longer is a failure"
    )


def run(args: argparse.Namespace) -> int:
    """Probe and print."""
    with FaceSwapClient(args.url, tls=given_tls(args), timeout_s=args.timeout) as client:
        result = probe(client, args.max_latency)
    if args.json:
        print(json.dumps(asdict(result)))
        return 0
    similarity = f"similarity {result.similarity_before:.3f} -> {result.similarity_after:.3f}"
    versions = ", ".join(f"{model} {version}" for model, version in result.models.items())
    print(f"{result.url}: {result.swapped} face swapped in {result.latency_ms:.0f} ms, {similarity} ({versions})")
    return 0
