"""``warmswap lint``: list the versions of a model repository and what is wrong with it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from warmswap_ops.finding import Finding
    from warmswap_ops.lint import Rule, VersionOnDisk

HELP: str = "list every version of a model repository with its licence, and what is wrong or slow with it"

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
    parser.add_argument(
        "--launch",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="scripts, Kubernetes manifests, Dockerfiles that start tritonserver on this repository: looked at too",
    )
    parser.add_argument("--strict", action="store_true", help="warnings count as errors do")
    parser.add_argument("--rule", action="append", default=[], metavar="NAME", help="this rule only; may be repeated")
    parser.add_argument("--list-rules", action="store_true", help="print the rules, and why each is there")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print versions and findings; return 0 where no finding is an error.

    Raises:
        OpsError: there is no such repository, policy or rule.
    """
    import os

    from warmswap_ops.errors import EXIT_FINDINGS
    from warmswap_ops.licences import find_policy
    from warmswap_ops.lint import lint, read_versions
    from warmswap_ops.repository import find_repository

    rules = _choose_rules(args.rule)
    if args.list_rules:
        _print_rules(rules, as_json=args.json)
        return 0
    policy = find_policy(args.policy, os.environ)
    repository = read_versions(find_repository(args.repository, os.environ), policy, args.launch)
    findings = lint(repository, rules)
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
    counts = findings if args.strict else [finding for finding in findings if finding.severity == "error"]
    return EXIT_FINDINGS if counts else 0


def as_text(versions: tuple[VersionOnDisk, ...], findings: list[Finding]) -> str:
    """Return a table of the versions, and three lines for each finding."""
    rows = [HEADING, *map(_row, versions)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    lines += ["", f"{len(findings)} finding{'' if len(findings) == 1 else 's'}"]
    for finding in findings:
        lines.append(f"{finding.place}: {finding.severity}: {finding.what} ({finding.rule})")
        lines += [f"  why: {finding.why}", f"  fix: {finding.fix}"]
    return "\n".join(lines)


def _choose_rules(names: list[str]) -> list[Rule]:
    """Return the rules that were asked for, or all.

    Raises:
        UsageError: there is no such rule.
    """
    from warmswap_ops.errors import UsageError
    from warmswap_ops.lint_rules import RULES

    unknown = sorted(set(names) - {rule.__name__ for rule in RULES})
    if unknown:
        raise UsageError(f"--rule: no rule {', '.join(unknown)}; warmswap lint --list-rules prints them")
    return [rule for rule in RULES if not names or rule.__name__ in names]


def _print_rules(rules: list[Rule], *, as_json: bool) -> None:
    from warmswap_ops.lint import explain

    explained = [dict(zip(("rule", "wants", "why"), (rule.__name__, *explain(rule)), strict=True)) for rule in rules]
    if as_json:
        print(json.dumps({"rules": explained}))
        return
    for rule in explained:
        print(f"{rule['rule']}: {rule['wants']}\n  {rule['why']}")


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
