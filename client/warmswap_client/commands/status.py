"""``warmswap status``: what a server says about itself. Exit code 0 only if ``face_swap`` answers requests."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import Any, Final

from warmswap_client.client import FaceSwapClient
from warmswap_client.commands._arguments import add_server_arguments, given_tls
from warmswap_client.commands._report import error_to_json, table
from warmswap_client.errors import ServerUnreachableError
from warmswap_client.status import ServerStatus, not_ready, parse_runtime
from warmswap_ensemble.contract import MODELS

HELP: Final = "show versions, readiness and models of a server"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_server_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Ask and print."""
    with FaceSwapClient(args.url, tls=given_tls(args), timeout_s=args.timeout) as client:
        try:
            status = client.status()
        except ServerUnreachableError as error:
            if not args.json:
                raise
            print(json.dumps(_unreachable_to_json(client.url, error)))
            print(json.dumps({"error": error_to_json(error)}), file=sys.stderr)
            return error.exit_code
    print(json.dumps(_to_json(status)) if args.json else _to_text(status))
    return 0 if status.ready else 1


def _to_json(status: ServerStatus) -> dict[str, Any]:
    return {
        "url": status.url,
        "live": status.live,
        "ready": status.ready,
        "server_ready": status.server_ready,
        "server": {"name": status.name, "version": status.version},
        "runtime": dict(status.runtime),
        "models": [asdict(model) for model in status.models],
        "not_ready": [asdict(model) for model in not_ready(status.models, MODELS)],
    }


def _unreachable_to_json(url: str, error: ServerUnreachableError) -> dict[str, Any]:
    """The same keys, for a server that says nothing."""
    return {
        "url": url,
        "live": False,
        "ready": False,
        "server_ready": False,
        "server": {"name": None, "version": None},
        "runtime": parse_runtime("", ""),
        "models": [],
        "not_ready": [],
        "error": error_to_json(error),
    }


def _to_text(status: ServerStatus) -> str:
    versions = ", ".join(f"{part} {version or 'unknown'}" for part, version in status.runtime.items())
    readiness = "ready" if status.ready else "NOT ready"
    lines = [f"{status.url}: {'live' if status.live else 'NOT live'}, face_swap {readiness}", f"  {versions}"]
    rows = [("model", "version", "state", "reason")]
    rows += [(model.name, model.version or "-", model.state or "not loaded", model.reason) for model in status.models]
    lines += table(rows)
    lines += [f"not ready: {model.model}: {model.reason}" for model in not_ready(status.models, MODELS)]
    return "\n".join(lines)
