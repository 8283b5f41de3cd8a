"""``warmswap rollout judge``: are new replicas as good as the old ones? For pods, whose traffic others steer."""

from __future__ import annotations

import argparse
import asyncio
import math
import random
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from warmswap_client.async_client import AsyncFaceSwapClient
    from warmswap_ops.rollout.pod_load import Pictures, Swap

HELP: Final = "send the same requests to old and new replicas, and judge by the gates of a rollout; 0 = pass, 11 = not"
Report = Callable[[str, Mapping[str, Any]], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options; those of TLS are common to all actions."""
    for group, meaning in (("stable", "old"), ("candidate", "new")):
        parser.add_argument(
            f"--{group}",
            action="append",
            required=True,
            metavar="HOST:PORT",
            help=f"gRPC address of a replica or of a service of {meaning} ones; may be given more than once",
        )
    parser.add_argument(
        "--plan", type=Path, metavar="FILE", help="TOML: gates, quality, interval, times of its last step"
    )
    parser.add_argument("--duration", type=_positive, metavar="S", help="at least (default: soak_s of the last step)")
    parser.add_argument(
        "--max-duration", type=_positive, metavar="S", help="at most (default: max_soak_s of the last step)"
    )
    parser.add_argument(
        "--rate", type=_positive, default=5.0, metavar="R", help="requests/s to each group (default: %(default)g)"
    )
    parser.add_argument(
        "--source", action="append", type=Path, default=[], metavar="IMG", help="whose face; once for each --target"
    )
    parser.add_argument("--target", action="append", type=Path, default=[], metavar="IMG", help="where it goes")
    parser.add_argument(
        "--repository",
        type=Path,
        metavar="DIR",
        help="the golden pictures of its face_swap, beside or instead of yours",
    )
    parser.add_argument(
        "--timeout", type=_positive, default=10.0, metavar="S", help="of a request: later is an error (default: 10)"
    )
    parser.add_argument(
        "--wait", type=_positive, default=30.0, metavar="S", help="for each replica to be ready (default: 30)"
    )
    parser.add_argument("--seed", type=int, help="of the order and the choice of replicas (default: of chance)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def run(args: argparse.Namespace, report: Report) -> int:
    """Judge.

    Raises:
        UsageError: options or pictures are no use.
        ServerUnreachableError: a replica is not ready.
        CandidateStoppedError: the candidate does not pass.
    """
    from warmswap_ops.rollout.plan import read_plan
    from warmswap_ops.rollout.pods import Limits

    plan = read_plan(args.plan)
    limits = Limits.of(plan, args.duration, args.max_duration)
    pictures = find_pictures(args)
    asyncio.run(_judge(args, plan, limits, pictures, report))
    return 0


def find_pictures(args: argparse.Namespace) -> list[Pictures]:
    """Read what is to be sent.

    Raises:
        UsageError: there is nothing, a file cannot be read, or a source has no target.
        RepositoryError: the repository has no golden pictures.
    """
    from warmswap_ops.errors import UsageError
    from warmswap_ops.rollout.golden_pictures import golden_pictures
    from warmswap_ops.rollout.pod_load import Pictures

    if len(args.source) != len(args.target):
        raise UsageError(f"--source and --target go together, got {len(args.source)} and {len(args.target)} of them")
    try:
        found = [
            Pictures(f"{source.name} in {target.name}", source.read_bytes(), target.read_bytes())
            for source, target in zip(args.source, args.target, strict=True)
        ]
    except OSError as error:
        raise UsageError(f"picture {error.filename} cannot be read: {error.strerror}") from error
    if args.repository is not None:
        found += golden_pictures(args.repository)
    if not found:
        raise UsageError("nothing to send: give --source and --target, or --repository for its golden pictures")
    return found


async def _judge(args: argparse.Namespace, plan: Any, limits: Any, pictures: list[Pictures], report: Report) -> None:
    from warmswap_ops.rollout.pod_load import PairLoad
    from warmswap_ops.rollout.pods import judge_pods, warm_up

    async with AsyncExitStack() as stack:
        stable, candidate = [
            [await _open(stack, args, address) for address in dict.fromkeys(addresses)]
            for addresses in (args.stable, args.candidate)
        ]
        await warm_up(stable, candidate, pictures)
        load = PairLoad(stable, candidate, pictures, args.rate, random.Random(args.seed))
        await judge_pods(load, plan, limits, report)


async def _open(stack: AsyncExitStack, args: argparse.Namespace, address: str) -> Swap:
    from warmswap_client.async_client import AsyncFaceSwapClient
    from warmswap_client.errors import NotReadyError
    from warmswap_client.retry import NO_RETRIES
    from warmswap_client.tls import TlsFiles
    from warmswap_ops.errors import ServerUnreachableError

    files = TlsFiles(args.tls_ca, args.tls_cert, args.tls_key)
    is_tls = args.tls or files != TlsFiles()
    client: AsyncFaceSwapClient = await stack.enter_async_context(
        AsyncFaceSwapClient(
            f"{'grpcs' if is_tls else 'grpc'}://{address}",
            tls=files if is_tls else None,
            timeout_s=args.timeout,
            retry=NO_RETRIES,
        )
    )
    try:
        await client.wait_until_ready(args.wait)
    except NotReadyError as error:
        raise ServerUnreachableError(str(error)) from error
    return partial(client.swap)


def _positive(text: str) -> float:
    number = float(text)
    if not (number > 0 and math.isfinite(number)):
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return number
