"""``warmswap wait``: return when a server answers requests."""

from __future__ import annotations

import argparse
import json
import time
from typing import Final

from warmswap_client.client import FaceSwapClient
from warmswap_client.commands._arguments import add_server_arguments, given_tls
from warmswap_ensemble.contract import FACE_SWAP

HELP: Final = "wait until a server is ready"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_server_arguments(parser)
    parser.add_argument("--model", default=FACE_SWAP.name, help="the model to wait for (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Wait and say how long it took."""
    begin = time.monotonic()
    with FaceSwapClient(args.url, tls=given_tls(args)) as client:
        client.wait_until_ready(args.timeout, args.model)
        url = client.url
    waited_s = round(time.monotonic() - begin, 3)
    if args.json:
        print(json.dumps({"url": url, "model": args.model, "ready": True, "waited_s": waited_s}))
    else:
        print(f"{args.model} at {url} is ready after {waited_s:.1f} s")
    return 0
