"""Policies in TOML. Strict: what is not known is refused, with what is.

[[policy]]                       one table per policy; all of its parts have defaults but a name and a trigger
name = "pending"
[policy.replica]                 see ``policy.Replica``; so for start, cluster, autoscaler, keda
[[policy.metric]]                kind = "cpu" or "pending", target
[[policy.cron]]                  timezone, start, end, replicas
[policy.scale_up]                stabilization_window_s, select_policy, tolerance, policies = [{type, value, period_s}]
[policy.scale_down]
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, replace
from importlib.resources import files
from pathlib import Path
from types import UnionType
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

from warmswap_loadtests.scaling.behaviour import DEFAULT_DOWN, DEFAULT_UP, RatePolicy, ScalingRules
from warmswap_loadtests.scaling.cron import CronTrigger
from warmswap_loadtests.scaling.errors import PolicyError
from warmswap_loadtests.scaling.keda import KedaOptions
from warmswap_loadtests.scaling.policy import Cluster, Metric, Policy, Replica, Scaler, Start

SHIPPED: Final = "policies.toml"
TABLES: Final[Mapping[str, type]] = {
    "replica": Replica, "start": Start, "cluster": Cluster, "autoscaler": Scaler, "keda": KedaOptions,
}  # fmt: skip
LISTS: Final[Mapping[str, type]] = {"metric": Metric, "cron": CronTrigger}
RULES: Final = {"scale_up": DEFAULT_UP, "scale_down": DEFAULT_DOWN}


def shipped_text() -> str:
    """Return the file of the comparison set of the package."""
    return files(__package__).joinpath(SHIPPED).read_text(encoding="utf-8")


def shipped_policies() -> list[Policy]:
    """Return the comparison set of the package."""
    return parse_policies(shipped_text(), SHIPPED)


def read_policies(path: Path) -> list[Policy]:
    """Return the policies of a file.

    Raises:
        PolicyError: it cannot be read, or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"cannot read the policies of {path}: {error}") from error
    return parse_policies(text, str(path))


def parse_policies(text: str, name: str) -> list[Policy]:
    """Return the policies of a text.

    Raises:
        PolicyError: it is no TOML, or holds something else.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(f"{name} is no TOML: {error}") from error
    _refuse_unknown(document, ["policy"], name)
    entries = document.get("policy")
    if not isinstance(entries, list) or not entries:
        raise PolicyError(f"{name} holds no policy: give at least one [[policy]]")
    policies = [_policy(entry, f"{name}: policy {number}") for number, entry in enumerate(entries, start=1)]
    names = [policy.name for policy in policies]
    for policy in policies:
        if names.count(policy.name) > 1:
            raise PolicyError(f"{name}: two policies are called {policy.name!r}")
    return policies


def _policy(entry: Mapping[str, Any], where: str) -> Policy:
    known = ["name", "summary", *TABLES, *LISTS, *RULES]
    _refuse_unknown(entry, known, where)
    values: dict[str, Any] = {
        key: _typed(entry[key], str, f"{where}: {key}") for key in ("name", "summary") if key in entry
    }
    if not values.get("name"):
        raise PolicyError(f"{where}: give it a name")
    where = f"{where} ({values['name']})"
    for key, kind in TABLES.items():
        if key in entry:
            values[key] = _made(kind, entry[key], f"{where}: {key}")
    for key, kind in LISTS.items():
        items = _typed(entry.get(key, []), list, f"{where}: {key}")
        values[key] = tuple(_made(kind, item, f"{where}: {key} {number}") for number, item in enumerate(items, start=1))
    for key, default in RULES.items():
        if key in entry:
            values[key] = _rules(entry[key], default, f"{where}: {key}")
    try:
        return Policy(**values)
    except PolicyError as error:
        raise PolicyError(f"{where}: {error}") from error


def _rules(entry: Any, default: ScalingRules, where: str) -> ScalingRules:
    table = dict(_typed(entry, dict, where))
    _refuse_unknown(table, [field.name for field in fields(ScalingRules)], where)
    limits = table.pop("policies", None)
    made = replace(default, **{key: _value(ScalingRules, key, value, where) for key, value in table.items()})
    if limits is None:
        return made
    items = _typed(limits, list, f"{where}: policies")
    return replace(
        made, policies=tuple(_made(RatePolicy, item, f"{where}: policies {n}") for n, item in enumerate(items, 1))
    )


def _made(kind: type, entry: Any, where: str) -> Any:
    table = _typed(entry, dict, where)
    parts: Sequence[Field[Any]] = fields(kind)
    _refuse_unknown(table, [part.name for part in parts], where)
    for part in parts:
        if part.name not in table and part.default is MISSING:
            raise PolicyError(f"{where}: {part.name} is missing")
    try:
        return kind(**{key: _value(kind, key, value, where) for key, value in table.items()})
    except PolicyError as error:
        raise PolicyError(f"{where}: {error}") from error


def _value(kind: type, key: str, value: Any, where: str) -> Any:
    return _typed(value, get_type_hints(kind)[key], f"{where}: {key}")


def _typed(value: Any, kind: Any, where: str) -> Any:
    """Return a value if it is of a type; a whole number is a float too, a truth value is no number."""
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise PolicyError(f"{where} must be one of {', '.join(get_args(kind))}, got {value!r}")
        return value
    if isinstance(kind, UnionType):
        kind = next(part for part in get_args(kind) if part is not type(None))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        names = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", dict: "a table"}
        raise PolicyError(f"{where} must be {names.get(kind, 'a list')}, got {value!r}")
    return value


def _refuse_unknown(table: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise PolicyError(f"{where}: unknown key {key!r}; {hint}known are {', '.join(known)}")
