"""The command ``warmswap``.

Sub-commands come from the entry-point group ``warmswap.commands``. Each entry point names a module with

    HELP: str                                          one line for the list of commands
    def add_arguments(parser: ArgumentParser) -> None  its options
    def run(args: Namespace) -> int                    its work; the result is the exit code

and is imported only if its command, or the list, is asked for: keep heavy imports inside ``run``.

    exit code   meaning
    0           ok
    1           the server failed, or anything not listed here
    2           usage: arguments, URL, files
    3           cannot connect, or not ready
    4           time-out
    5           the server refused the input
    130         stopped with ctrl-C

An exception with an integer ``exit_code`` is a message for the user: one line on stderr, ``error: ...``, or one line of
JSON if the command was given ``--json``. Any other exception is a bug and shows its traceback.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points, version
from typing import Final, Protocol, cast

GROUP: Final = "warmswap.commands"
USAGE: Final = "usage: warmswap [-h] [--version] COMMAND ..."

EXTRAS: Final = {
    "swap": "client",
    "analyze": "client",
    "status": "client",
    "wait": "client",
    "probe": "client",
    "serve": "server",
    "lint": "server",
    "compile": "server",
    "provision": "server",
    "rollout": "server",
    "export": "export",
    "verify": "export",
    "bench": "loadtests",
    "simulate-scaling": "loadtests",
}
"""Which extra of the distribution brings the libraries of a command."""


class CommandModule(Protocol):
    """What an entry point names."""

    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the options."""

    def run(self, args: argparse.Namespace) -> int:
        """Do the work and return the exit code."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command and return its exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    commands = {entry.name: entry for entry in entry_points(group=GROUP)}
    match arguments:
        case ["-h" | "--help", *_]:
            sys.stdout.write(_overview(commands))
            return 0
        case ["--version", *_]:
            sys.stdout.write(f"warmswap {version('warmswap')}\n")
            return 0
        case [name, *rest] if name in commands:
            return _run_command(commands[name], rest)
        case [name, *_]:
            near = difflib.get_close_matches(name, commands, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(sorted(commands))}"
            return _fail(f"unknown command {name!r}, {hint}", exit_code=2)
        case _:
            sys.stderr.write(_overview(commands))
            return 2


def _run_command(entry: EntryPoint, arguments: Sequence[str]) -> int:
    as_json = "--json" in arguments  # until the arguments are parsed
    try:
        module = cast(CommandModule, entry.load())
        parser = argparse.ArgumentParser(prog=f"warmswap {entry.name}", description=module.HELP)
        module.add_arguments(parser)
        args = parser.parse_args(arguments)
        as_json = getattr(args, "json", False)
        return module.run(args)
    except KeyboardInterrupt:
        return _fail("stopped", exit_code=130, as_json=as_json, kind="KeyboardInterrupt")
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(entry.name)
        remedy = f"pip install 'warmswap[{extra}]'" if extra else "see the documentation of this command"
        message = f"{entry.name!r} needs the module {error.name!r}, which is not installed: {remedy}"
        return _fail(message, exit_code=1, as_json=as_json, kind=type(error).__name__)
    except Exception as error:
        exit_code = getattr(error, "exit_code", None)
        if not isinstance(exit_code, int):
            raise
        known = {name: getattr(error, name, None) for name in ("code", "request_id")}
        return _fail(str(error), exit_code=exit_code, as_json=as_json, kind=type(error).__name__, **known)


def _overview(commands: dict[str, EntryPoint]) -> str:
    lines = [USAGE, "", "commands:"]
    width = max((len(name) for name in commands), default=0)
    for name in sorted(commands):
        try:
            summary = commands[name].load().HELP
        except ImportError:
            summary = f"(not installed: pip install 'warmswap[{EXTRAS.get(name, name)}]')"
        lines.append(f"  {name:<{width}} {summary}")
    lines += ["", "`warmswap COMMAND --help` shows the options of a command.", ""]
    return "\n".join(lines)


def _fail(
    message: str,
    *,
    exit_code: int,
    as_json: bool = False,
    kind: str = "UsageError",
    code: object = None,
    request_id: object = None,
) -> int:
    sentence = " ".join(message.split())  # a server may send a traceback
    if as_json:
        report = {"type": kind, "code": code if isinstance(code, str) else None, "message": sentence}
        if isinstance(request_id, str):
            report["request_id"] = request_id
        sys.stderr.write(json.dumps({"error": report}) + "\n")
    else:
        sys.stderr.write(f"error: {sentence}{f' (request {request_id})' if isinstance(request_id, str) else ''}\n")
    return exit_code
