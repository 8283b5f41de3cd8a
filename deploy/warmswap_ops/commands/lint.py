"""``warmswap lint``: list the versions of a model repository and what is wrong with it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from warmswap_ops.lint import Finding, VersionOnDisk

HELP: str = "list every version of a model repository with its licence, and what is wrong with it"

HEADING = ("model", "version", "name", "licence", "commercial use", "twin", "precision", "embedding space")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``warmswap lint``."""
    parser.add_argument(
        "--repository",
        type=Path,
        help="model repository (default: $WARMSWAP_REPOSITORY, ./model_repository, or the checkout's)",
    )
    parser.add_argument(
        "--policy",
        metavar="commercial|any",
        help="commercial: what does not allow commercial use is a finding (default: $WARMSWAP_POLICY, or any)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print versions and findings; return 0 where there are none of these.

    Raises:
        OpsError: there is no such repository or policy.
    """
    import os

    from warmswap_ops.errors import EXIT_FINDINGS
    from warmswap_ops.licences import find_policy
    from warmswap_ops.lint import lint, read_versions
    from warmswap_ops.lint_rules import RULES
    from warmswap_ops.repository import find_repository

    policy = find_policy(args.policy, os.environ)
    repository = read_versions(find_repository(args.repository, os.environ), policy)
    findings = lint(repository, RULES)
    if args.json:
        report = {
            "repository": str(repository.folder),
            "policy": policy,
            "versions": [version.as_json() for version in repository.versions],
            "findings": [finding.as_json() for finding in findings],
        }
        print(json.dumps(report))
    else:
        print(as_text(repository.versions, findings))
    return EXIT_FINDINGS if findings else 0


def as_text(versions: tuple[VersionOnDisk, ...], findings: list[Finding]) -> str:
    """Return a table of the versions, and three lines for each finding."""
    rows = [HEADING, *map(_row, versions)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    lines += ["", f"{len(findings)} finding{'' if len(findings) == 1 else 's'}"]
    for finding in findings:
        lines += [f"{finding.file} ({finding.rule})", f"  what: {finding.what}", f"  fix:  {finding.fix}"]
    return "\n".join(lines)


def _row(version: VersionOnDisk) -> tuple[str, ...]:
    facts = version.as_json()
    twin = None if facts["twin_seed"] is None else f"seed {facts['twin_seed']}"
    commercial = {True: "yes", False: "no"}.get(facts["commercial_use"], facts["commercial_use"])
    cells = (
        facts["model"],
        facts["version"],
        facts["name"],
        facts["licence"],
        commercial,
        twin,
        facts["precision"],
        facts["embedding_space"],
    )
    return tuple("-" if cell is None else str(cell) for cell in cells)
