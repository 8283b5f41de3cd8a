"""``warmswap swap``: put a face into one picture or many."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, Final

from warmswap_client.client import FaceSwapClient
from warmswap_client.commands._arguments import add_option_arguments, add_server_arguments, given_options, given_tls
from warmswap_client.commands._progress import Progress
from warmswap_client.commands._report import error_to_json, swap_to_json, swap_to_text, twin_warning
from warmswap_client.commands._targets import find_targets, format_of, named_as, protect
from warmswap_client.errors import OutputFileError, WarmswapError
from warmswap_client.files import read_image
from warmswap_client.results import SwapResult
from warmswap_ensemble.contract import SWAP_OPTIONS

HELP: Final = "put the face of one picture into another, or into many"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--source", type=Path, required=True, help="picture with the face to put in")
    parser.add_argument(
        "--target",
        nargs="+",
        action="extend",
        required=True,
        help="pictures to change: files, folders or quoted patterns such as 'album/**/*.jpg'",
    )
    parser.add_argument("--output", type=Path, required=True, help="result; a folder if there are several targets")
    parser.add_argument("--reference", type=Path, help="picture of whom to replace, for --face-selector reference")
    parser.add_argument("--concurrency", type=_positive_int, default=1, metavar="N", help="pictures under way at once")
    parser.add_argument("--force", action="store_true", help="allow the result to overwrite an input")
    add_server_arguments(parser)
    add_option_arguments(parser, SWAP_OPTIONS)


def run(args: argparse.Namespace) -> int:
    """Swap, write the results and return the exit code."""
    targets = find_targets(args.target)
    source = read_image(args.source)  # once, and before the first request
    reference = None if args.reference is None else read_image(args.reference)
    with FaceSwapClient(args.url, tls=given_tls(args), timeout_s=args.timeout) as client:
        job = _Job(args, partial(client.swap, source, reference=reference))
        if targets.is_batch:
            return _run_batch(job, targets.paths)
        target = targets.paths[0]
        output = args.output / target.name if args.output.is_dir() else args.output
        written, result = job.work(target, output, given_name=output is args.output)
    _warn_of_twins(result.twins)
    print(json.dumps(swap_to_json(result, written)) if args.json else swap_to_text(result, written))
    return 0


@dataclass(slots=True)
class _Job:
    """What is the same for all targets.

    Attributes:
        args: The command line.
        swap: The client's call, without target and options.
        written: Results so far; two targets must not share one.
        lock: Guards ``written``.
    """

    args: argparse.Namespace
    swap: Callable[..., SwapResult]
    written: set[Path] = field(default_factory=set)
    lock: Lock = field(default_factory=Lock)

    def work(self, target: Path, output: Path, *, given_name: bool) -> tuple[Path, SwapResult]:
        """Swap one target and write the result.

        Args:
            target: The picture to change.
            output: Where the result goes.
            given_name: Whether the user chose this very name. Then it decides the format, unless an option does;
                otherwise the format decides the suffix.
        """
        options: dict[str, Any] = given_options(self.args, SWAP_OPTIONS)
        if given_name:
            promised = format_of(output)
            if promised is not None and promised != format_of(target):
                options.setdefault("output_format", promised)
        else:
            output = named_as(output, options.get("output_format", "same"))
        self._protect(target, output)
        result = self.swap(read_image(target), **options)
        if not given_name and named_as(output, result.image_format) != output:
            output = named_as(output, result.image_format)  # the target's name told a lie about its format
            self._protect(target, output)
        with self.lock:
            if output in self.written:
                raise OutputFileError(f"{output} was already written for another target of the same name")
            self.written.add(output)
        return result.save(output), result

    def _protect(self, target: Path, output: Path) -> None:
        if not self.args.force:
            protect(output, (path for path in (self.args.source, target, self.args.reference) if path is not None))


def _run_batch(job: _Job, targets: tuple[Path, ...]) -> int:
    folder: Path = job.args.output
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputFileError(f"cannot make the folder {folder}: {error.strerror or error}") from error
    failures: dict[Path, WarmswapError] = {}
    twins: dict[str, None] = {}
    progress = Progress(len(targets))
    executor = ThreadPoolExecutor(job.args.concurrency)
    try:
        futures = {executor.submit(job.work, path, folder / path.name, given_name=False): path for path in targets}
        for future in as_completed(futures):
            target = futures[future]
            progress.clear()
            try:
                output, result = future.result()
            except WarmswapError as error:
                failures[target] = error
                if job.args.json:
                    print(json.dumps({"target": str(target), "error": error_to_json(error)}), flush=True)
            else:
                twins.update(dict.fromkeys(result.twins))
                line = {"target": str(target), **swap_to_json(result, output)}
                print(json.dumps(line) if job.args.json else swap_to_text(result, output), flush=True)
            progress.advance()
    finally:
        progress.clear()
        executor.shutdown(cancel_futures=True)  # after ctrl-C: only what is under way is still waited for
    _warn_of_twins(tuple(twins))
    return _report_failures(failures, len(targets))


def _warn_of_twins(twins: tuple[str, ...]) -> None:
    if twins:
        print(twin_warning(twins), file=sys.stderr)


def _report_failures(failures: dict[Path, WarmswapError], num_targets: int) -> int:
    """Name the failures on stderr; their common exit code, or 1 if they failed for different reasons."""
    if not failures:
        return 0
    print(f"error: {len(failures)} of {num_targets} targets failed", file=sys.stderr)
    for target, error in failures.items():
        request = "" if error.request_id is None else f" (request {error.request_id})"
        print(f"  {target}: {' '.join(str(error).split())}{request}", file=sys.stderr)
    exit_codes = {error.exit_code for error in failures.values()}
    return exit_codes.pop() if len(exit_codes) == 1 else 1


def _positive_int(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number
