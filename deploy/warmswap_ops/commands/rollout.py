"""``warmswap rollout``: bring a new version of a model to replicas that serve, without losing a request."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import secrets
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from warmswap_ops.commands import _judge

if TYPE_CHECKING:
    from warmswap_ops.rollout.checks import Candidate
    from warmswap_ops.rollout.leader import Leader

HELP: str = "bring a new version of a model to replicas that serve: trial, shadow, canary, promote, roll back"

DEFAULT_REPLICA: Final = "127.0.0.1:8001"
_NOT_IN_TEXT: Final = ("event", "verdicts", "gates")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions of ``warmswap rollout`` and their options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, meaning in (
        ("run", "roll a candidate out, through all steps of the plan; go on with that after an interruption"),
        ("stage", "bring a candidate and try it on every replica, and stop there; run goes on"),
    ):
        action = actions.add_parser(name, help=meaning, description=meaning)
        action.add_argument("model", help="face_detector, face_landmarker, face_embedder, face_swapper, face_swap, ...")
        action.add_argument(
            "--candidate",
            required=True,
            metavar="SRC",
            help="version folder, .tar[.gz], its URL, oci:DIR[:TAG], models:/NAME@ALIAS",
        )
        action.add_argument("--sha256", metavar="HEX", help="of the archive (a URL needs it), or of the content")
        action.add_argument(
            "--with",
            dest="others",
            action="append",
            default=[],
            metavar="MODEL=SRC",
            help="another model that must change at the same time: requests never meet one without the other",
        )
        action.add_argument("--plan", type=Path, metavar="FILE", help="TOML (default: 1, 5, 25, 50, 100 %%)")
        action.add_argument("--policy", metavar="commercial|any", help="licences (default: $WARMSWAP_POLICY, or any)")
        _add_replica_arguments(action)
    for name, meaning in (
        ("promote", "let the candidate answer everything now, without waiting for the remaining steps"),
        ("rollback", "go back to the version that served before, at once; also after a rollout is done"),
        ("abort", "end the rollout under way and remove its candidate"),
        ("status", "tell what is under way, on every replica"),
        ("history", "tell what was done, by whom, and why"),
    ):
        action = actions.add_parser(name, help=meaning, description=meaning)
        if name in ("rollback", "abort"):
            action.add_argument("--reason", default="", help="for the history")
        if name == "history":
            action.add_argument("--last", type=int, default=50, metavar="N", help="entries (default: %(default)s)")
        _add_replica_arguments(action)
    judge = actions.add_parser("judge", help=_judge.HELP, description=_judge.HELP)
    _judge.add_arguments(judge)
    _add_tls_arguments(judge)
    register = actions.add_parser("register", help="put a version folder into MLflow's model registry")
    register.add_argument("folder", type=Path, help="version folder, as warmswap export makes it")
    register.add_argument("--name", required=True, help="registered model, for example face_swapper")
    register.add_argument("--alias", help="for example champion: models:/face_swapper@champion")
    register.add_argument("--tracking-uri", help="of MLflow (default: $MLFLOW_TRACKING_URI)")
    register.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Do one action.

    Raises:
        OpsError: it was not possible, or the candidate was stopped; says why.
    """
    if args.action == "register":
        return _register(args)
    if args.action == "judge":
        return _judge.run(args, _reporter(args))
    with _leader(args) as leader:
        match args.action:
            case "run" | "stage":
                return _run(args, leader)
            case "promote":
                leader.promote()
            case "rollback" | "abort":
                reason = args.reason or f"{args.action} by {_who()}"
                leader.roll_back(reason, only_running=args.action == "abort")
            case "status":
                _print_status(args, leader)
            case "history":
                _print_history(args, leader)
    return 0


def _run(args: argparse.Namespace, leader: Leader) -> int:
    from warmswap_ops.errors import UsageError
    from warmswap_ops.rollout.plan import read_plan
    from warmswap_ops.rollout.record import Phase

    plan = read_plan(args.plan)
    sources = {args.model: args.candidate}
    for other in args.others:
        model, equals, source = other.partition("=")
        if not equals or not source or model in sources:
            raise UsageError(f"--with must be MODEL=SRC with a model that is not named yet, got {other!r}")
        sources[model] = source
    with tempfile.TemporaryDirectory(prefix="warmswap-candidate-") as work:
        candidates = [_open(args, model, source, Path(work) / model) for model, source in sources.items()]
        record = leader.run(candidates, plan, until=Phase.PROVEN if args.action == "stage" else Phase.DONE)
    summary = {"event": "ended", "rollout": record.id, "phase": record.phase.value, "versions": record.candidate}
    print(json.dumps(summary) if args.json else _text(summary))
    return 0


def _open(args: argparse.Namespace, model: str, source: str, work: Path) -> Candidate:
    from warmswap_ops.licences import find_policy
    from warmswap_ops.rollout.checks import check_candidate
    from warmswap_ops.rollout.sources.open_candidate import open_candidate

    sha256 = args.sha256 if model == args.model else None
    opened = open_candidate(source, work, sha256=sha256, progress=lambda count: None)
    policy = find_policy(args.policy, os.environ)
    return check_candidate(model, opened.folder, opened.origin, opened.digest, policy)


def _register(args: argparse.Namespace) -> int:
    from warmswap_ops.rollout.sources.mlflow_registry import register_candidate

    uri = register_candidate(args.folder, args.name, args.alias, args.tracking_uri)
    print(json.dumps({"uri": uri}) if args.json else uri)
    return 0


def _print_status(args: argparse.Namespace, leader: Leader) -> None:
    record, seen = leader.look()
    rollout = None if record is None else record.as_json()
    replicas = {
        replica.address: {
            "generation": state.routes.generation,
            "pins": dict(state.routes.pins),
            "rollout": state.routes.as_json()["rollout"],
            "is_led": state.lease_left_s > 0 and record is not None and not record.is_over,
        }
        for replica, state in seen.items()
    }
    if args.json:
        print(json.dumps({"rollout": rollout, "replicas": replicas}))
        return
    if record is None:
        print("no rollout yet")
        return
    versions = ", ".join(f"{model} {pair[0]} -> {pair[1]}" for model, pair in record.versions.items())
    print(
        f"{record.id}: {versions}, {record.phase}, led by {record.who}{f', {record.reason}' if record.reason else ''}"
    )
    for address, state in replicas.items():
        shared = state["rollout"]
        share = f"{100 * shared['share']:g} % to the candidate" if shared else "nothing shared out"
        print(f"  {address}: {share}{', pins ' + str(state['pins']) if state['pins'] else ''}")
    for gate in record.gates:
        print(f"  {gate['outcome']:<9} {gate['sentence']}")


def _print_history(args: argparse.Namespace, leader: Leader) -> None:
    for entry in leader.history(args.last):
        print(json.dumps(entry) if args.json else _text({key: value for key, value in entry.items() if key != "id"}))


@contextmanager
def _leader(args: argparse.Namespace) -> Iterator[Leader]:
    from warmswap_client.tls import TlsFiles
    from warmswap_ops.access import given_access
    from warmswap_ops.rollout.fleet import Fleet
    from warmswap_ops.rollout.leader import Leader
    from warmswap_ops.rollout.replica import Replica
    from warmswap_ops.rollout.tls import RolloutTls

    access = given_access(args.control_token_file, os.environ)
    files = TlsFiles(args.tls_ca, args.tls_cert, args.tls_key)
    tls = RolloutTls(files) if args.tls or args.tls_name or files != TlsFiles() else None
    fleet = Fleet([Replica(address, access, tls and tls.under(name)) for address, name in _replicas(args).items()])
    try:
        yield Leader(
            fleet, _who(), secrets.token_hex(8), _reporter(args), load_timeout_s=args.load_timeout, lease_s=args.lease
        )
    finally:
        fleet.close()


def _replicas(args: argparse.Namespace) -> dict[str, str | None]:
    """Return the address of each replica, and the name that its certificate must have where that is another one."""
    from warmswap_ops.rollout.addresses import addresses_of, host_of

    replicas = dict.fromkeys(args.replica or ([] if args.service else [DEFAULT_REPLICA]), args.tls_name)
    for service in args.service:
        replicas |= dict.fromkeys(addresses_of(service), args.tls_name or host_of(service))
    return replicas


def _reporter(args: argparse.Namespace) -> Any:
    def report(event: str, facts: Mapping[str, Any]) -> None:
        values = {"event": event, **facts}
        print(json.dumps(values) if args.json else _text(values), file=sys.stdout, flush=True)

    return report


def _text(values: Mapping[str, Any]) -> str:
    """Return an event as a line; below it what the gates say that do not pass, where it is decided."""
    shown = [f"{key} {_short(value)}" for key, value in values.items() if key not in _NOT_IN_TEXT and value]
    verdicts = values.get("verdicts", [])
    counts = Counter(verdict["outcome"] for verdict in verdicts)
    shown += [f"{outcome} {count}" for outcome, count in counts.items()]
    lines = [f"{values.get('event', ''):<14} {'  '.join(shown)}".rstrip()]
    if values.get("decision") != "wait":
        lines += [f"    {verdict['outcome']:<9} {verdict['sentence']}" for verdict in verdicts]
    return "\n".join(lines)


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{key}={_short(item)}" for key, item in value.items())
    return "/".join(map(str, value)) if isinstance(value, list) else str(value)


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def _add_replica_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--replica",
        action="append",
        metavar="HOST:PORT",
        help=f"gRPC address; once for each replica (default: {DEFAULT_REPLICA})",
    )
    parser.add_argument(
        "--service",
        action="append",
        default=[],
        metavar="NAME:PORT",
        help="every address of this name is a replica, as those of a headless service are: its ready pods",
    )
    parser.add_argument(
        "--control-token-file",
        type=Path,
        metavar="FILE",
        help="token of the control API (default: $WARMSWAP_CONTROL_TOKEN_FILE, else none)",
    )
    _add_tls_arguments(parser)
    parser.add_argument(
        "--tls-name",
        metavar="NAME",
        help="which the replicas' certificate has, where they are called by another (default: the name of --service)",
    )
    parser.add_argument(
        "--lease",
        type=float,
        default=15.0,
        metavar="S",
        help="without a word of this program for so long another one may go on, and half as long after that the "
        "candidate gets no more requests (default: %(default)g)",
    )
    parser.add_argument("--load-timeout", type=float, default=300.0, metavar="S", help="for one load (default: 300)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def _add_tls_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tls", action="store_true", help="the replicas speak TLS")
    for name, meaning in (
        ("ca", "who vouches for the replicas (default: whom the system trusts)"),
        ("cert", "our own certificate, where they want one"),
        ("key", "its private key"),
    ):
        parser.add_argument(f"--tls-{name}", metavar="FILE", help=meaning)
