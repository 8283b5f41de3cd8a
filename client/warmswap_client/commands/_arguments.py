"""Options that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any, Final, get_args, get_type_hints

from warmswap_client.client import DEFAULT_TIMEOUT_S
from warmswap_client.endpoint import DEFAULT_URL
from warmswap_client.options import SwapOptions
from warmswap_client.tls import TlsFiles
from warmswap_ensemble.contract import FACE_SELECTORS, ON_NO_FACE, OUTPUT_FORMATS

CHOICES: Final = {"output_format": OUTPUT_FORMATS, "on_no_face": ON_NO_FACE}
METAVARS: Final = {"face_selector": "|".join(FACE_SELECTORS), "source_face_selector": "largest|index:K"}


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--url``, ``--timeout``, ``--json`` and the TLS files."""
    add_tls_arguments(parser)
    parser.add_argument(
        "--url", default=DEFAULT_URL, help="grpc://host:port or http://host:port (default: %(default)s)"
    )
    parser.add_argument(
        "--timeout",
        type=positive_seconds,
        default=DEFAULT_TIMEOUT_S,
        metavar="SECONDS",
        help="deadline, retries included (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="machine-readable output; errors too, on stderr")


def add_tls_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--tls-ca``, ``--tls-cert`` and ``--tls-key``."""
    for name, meaning in (
        ("ca", "who vouches for the server, for grpcs:// and https:// (default: whom the system trusts)"),
        ("cert", "our own certificate, where the server wants one"),
        ("key", "its private key"),
    ):
        parser.add_argument(f"--tls-{name}", metavar="FILE", help=meaning)


def given_tls(args: argparse.Namespace) -> TlsFiles | None:
    """Return the TLS files that were given; ``None`` = none."""
    files = TlsFiles(args.tls_ca, args.tls_cert, args.tls_key)
    return None if files == TlsFiles() else files


def add_option_arguments(parser: argparse.ArgumentParser, options: Mapping[str, str]) -> None:
    """Add a flag for each option of a table of the contract; what is not given is not sent."""
    group = parser.add_argument_group("options of the server")
    for name, meaning in options.items():
        group.add_argument(
            f"--{name.replace('_', '-')}",
            type=_option_type(name),
            choices=CHOICES.get(name),
            metavar=METAVARS.get(name),
            help=meaning.replace("%", "%%"),
        )


def given_options(args: argparse.Namespace, options: Mapping[str, str]) -> Any:
    """Collect the options that were given, as keywords for the client."""
    return {name: value for name in options if (value := getattr(args, name)) is not None}


def positive_seconds(text: str) -> float:
    """Parse a duration above zero."""
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return seconds


def _option_type(name: str) -> type:
    """``SwapOptions`` is the one place that knows the types."""
    value_type: type = get_args(get_type_hints(SwapOptions)[name])[0]
    return value_type
