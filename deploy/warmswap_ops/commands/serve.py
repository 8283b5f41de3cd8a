"""``warmswap serve``: start a replica and keep it in the foreground."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from warmswap_ops.serve_log import ServeLog
    from warmswap_ops.stop_signals import EventQueue

HELP: str = "start a server on this machine; it is ready when it has swapped the golden face correctly"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``warmswap serve``."""
    parser.add_argument(
        "--repository",
        type=Path,
        help="model repository (default: $WARMSWAP_REPOSITORY, ./model_repository, or the checkout's)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    for name, port in (("http", 8000), ("grpc", 8001), ("metrics", 8002)):
        parser.add_argument(f"--{name}-port", type=_port, default=port, help="0 = any free one (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON object per phase")
    parser.add_argument("--verbose", action="store_true", help="pass on everything that tritonserver writes")
    parser.add_argument(
        "--exit-timeout",
        type=_not_negative,
        default=25,
        metavar="S",
        help="how long in-flight requests may take after SIGTERM (default: %(default)s)",
    )
    parser.add_argument(
        "--drain-delay",
        type=_not_negative,
        default=0,
        metavar="S",
        help="go on serving this long after SIGTERM, until endpoints are gone (default: %(default)s)",
    )
    parser.add_argument(
        "--config-name",
        metavar="NAME",
        help="use configs/NAME.pbtxt of each model that has it (default: gpu where there is a GPU)",
    )
    parser.add_argument(
        "--policy",
        metavar="commercial|any",
        help="commercial: refuse versions whose manifest does not allow commercial use; any: warn of them "
        "(default: $WARMSWAP_POLICY, or any)",
    )
    parser.add_argument(
        "--compile",
        type=Path,
        metavar="DIR",
        help="compile the repository for this machine into DIR, unless that is up to date, and serve DIR",
    )
    parser.add_argument(
        "--compile-cache",
        type=Path,
        metavar="DIR",
        help="compiled graphs by key (default: $WARMSWAP_COMPILE_CACHE, or ~/.cache/warmswap/compiled)",
    )
    parser.add_argument(
        "--verify",
        choices=("changed", "full"),
        default="changed",
        help="sha256 of the files to serve: changed = of a compiled repository only those that were touched since "
        "they were compiled; full = all (default: %(default)s)",
    )
    parser.add_argument(
        "--residency",
        type=Path,
        metavar="FILE",
        help="which models are loaded on demand, and how much memory all may take "
        "(default: $WARMSWAP_RESIDENCY, or residency.toml in the repository)",
    )
    parser.add_argument(
        "--preload",
        type=_names,
        metavar="MODEL[,MODEL]",
        help="load only these at the start, and the stages that they call: face_analysis, face_swap, ... "
        "(default: all that is resident)",
    )
    parser.add_argument(
        "--load-timeout", type=_not_negative, default=300, metavar="S", help="for each model (default: %(default)s)"
    )
    parser.add_argument(
        "--warmup-requests",
        type=_at_least_one,
        metavar="N",
        help="golden requests to each process of a pipeline before it is ready (default: as its config.pbtxt says)",
    )
    parser.add_argument(
        "--on-failure",
        choices=("exit", "stay"),
        default="exit",
        help="stay: keep the metrics and an empty server that gives the reason, unready (default: %(default)s)",
    )
    parser.add_argument(
        "--max-restarts",
        type=_not_negative,
        default=3,
        metavar="N",
        help="restarts within ten minutes after the process of a model died (default: %(default)s)",
    )
    parser.add_argument(
        "--control-token-file",
        type=Path,
        metavar="FILE",
        help="only who brings the token in it may load, unload and the like (default: $WARMSWAP_CONTROL_TOKEN_FILE; "
        "without, nobody but this program may, unless --host is a loopback address)",
    )
    parser.add_argument(
        "--grpc-max-connection-age",
        type=_not_negative,
        default=0,
        metavar="S",
        help="close gRPC connections after so long, so that clients find new replicas; requests in work finish "
        "(default: never)",
    )
    for name, meaning in (
        ("cert", "certificate of the gRPC port in PEM form; plain HTTP answers nothing but health then"),
        ("key", "private key of the certificate"),
        ("client-ca", "clients must show a certificate of this authority (mutual TLS)"),
    ):
        parser.add_argument(f"--tls-{name}", type=Path, metavar="FILE", help=meaning)
    parser.add_argument(
        "--release",
        type=_release,
        metavar="NAME",
        help="put the label _release on every metric of the models, to tell replicas apart (default: no label)",
    )
    parser.add_argument("--require-gpu", action="store_true", help="refuse to start without a GPU")
    parser.add_argument(
        "--trace-url",
        metavar="URL",
        help="send OpenTelemetry traces there: http://collector:4318/v1/traces (default: no traces)",
    )
    parser.add_argument(
        "--trace-rate",
        type=int,
        metavar="N",
        help="trace one of N requests, and each that comes with a traceparent header (default: 100)",
    )
    parser.add_argument(
        "--log-format",
        choices=("text", "json"),
        default="text",
        help="json: every line is one JSON object, phases too (default: %(default)s)",
    )
    parser.add_argument(
        "--request-log",
        choices=("off", "errors", "all"),
        default="errors",
        help="log a line for each request that failed, or for each (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Serve until a signal.

    Raises:
        OpsError: the start failed, or the server died; ``exit_code`` says of which kind. Not with
            ``--log-format json``, whose last line says it.
    """
    from warmswap_ops.stop_signals import stop_signals

    with stop_signals() as events:  # before the imports below: process 1 loses a signal that has no handler yet
        from warmswap_ops.serve_log import stdio_log

        log = stdio_log(args.log_format, json_phases=args.json)
        return log.outcome(lambda: _serve(args, events, log))


def _serve(args: argparse.Namespace, events: EventQueue, log: ServeLog) -> int:
    from warmswap_ops.launcher import LaunchOptions
    from warmswap_ops.ports import Ports
    from warmswap_ops.serve_loop import ServeLoop
    from warmswap_ops.tls import Tls
    from warmswap_ops.tracing import Tracing

    options = LaunchOptions(
        repository=args.repository,
        host=args.host,
        ports=Ports(args.http_port, args.grpc_port, args.metrics_port),
        exit_timeout_s=args.exit_timeout,
        load_timeout_s=args.load_timeout,
        config_name=args.config_name,
        verbose=args.verbose,
        policy=args.policy,
        compile_to=args.compile,
        compile_cache=args.compile_cache,
        verify_fully=args.verify == "full",
        residency=args.residency,
        preload=args.preload,
        warmup_requests=args.warmup_requests,
        on_failure=args.on_failure,
        max_restarts=args.max_restarts,
        tracing=Tracing.of(args.trace_url, args.trace_rate),
        request_log=args.request_log,
        control_token_file=args.control_token_file,
        max_connection_age_s=args.grpc_max_connection_age,
        require_gpu=args.require_gpu,
        release=args.release,
        tls=Tls.of(args.tls_cert, args.tls_key, args.tls_client_ca),
    )
    return ServeLoop(options, log, events, args.drain_delay).run()


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{port} is not a port")
    return port


def _release(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._:-]{1,63}", text):
        raise argparse.ArgumentTypeError(f"must be 1 to 63 letters, digits or . _ : -, got {text!r}")
    return text


def _not_negative(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return number


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number
