from __future__ import annotations

from typing import Any

import pytest

from warmswap_ensemble.manifest import Manifest
from warmswap_ops.errors import LicenceError, UsageError
from warmswap_ops.licences import (
    check_policy,
    describe,
    find_policy,
    licence_facts,
    licence_warnings,
    twin_warnings,
    uncleared,
)


def with_use(allowed: bool | None, note: str = "", **changes: Any) -> Manifest:
    values: dict[str, Any] = {"model": "face_swapper", "version": 2, "twin_seed": None, **changes}
    return Manifest(
        **values,
        name="inswapper",
        pack="toy",
        files={},
        origin=[],
        licence="X-NC",
        commercial_use=allowed,
        exporter="test",
        opset=17,
        parity={},
        settings={},
        licence_note=note,
    )


ALLOWED = with_use(True)
FORBIDDEN = with_use(False, "InsightFace allows research only.")
UNKNOWN = with_use(None, model="face_embedder", version=11)


@pytest.mark.parametrize(
    ("given", "variable", "policy"),
    [
        (None, None, "any"),
        (None, "", "any"),
        (None, "commercial", "commercial"),
        ("any", "commercial", "any"),
        ("commercial", None, "commercial"),
        ("any", "nonsense", "any"),
    ],
)
def test_option_then_variable_then_any(given: str | None, variable: str | None, policy: str) -> None:
    assert find_policy(given, {} if variable is None else {"WARMSWAP_POLICY": variable}) == policy


@pytest.mark.parametrize("value", ["Commercial", "none", " any", "true"])
def test_wrong_policy_is_a_usage_error_that_says_where_it_came_from(value: str) -> None:
    with pytest.raises(UsageError, match=rf"^\$WARMSWAP_POLICY must be commercial or any, got '{value}'$") as caught:
        find_policy(None, {"WARMSWAP_POLICY": value})
    assert caught.value.exit_code == 2
    with pytest.raises(UsageError, match=f"^--policy must be commercial or any, got '{value}'$"):
        find_policy(value, {"WARMSWAP_POLICY": "any"})
    with pytest.raises(UsageError, match="--policy must be"):
        find_policy("", {})


def test_only_what_is_allowed_is_cleared() -> None:
    assert uncleared([]) == []
    assert uncleared([ALLOWED, FORBIDDEN, UNKNOWN]) == [FORBIDDEN, UNKNOWN]


def test_commercial_names_every_version_its_licence_and_what_to_do() -> None:
    with pytest.raises(LicenceError) as caught:
        check_policy("commercial", [ALLOWED, FORBIDDEN, UNKNOWN])
    assert str(caught.value) == (
        "policy commercial refuses face_swapper 2, inswapper, licence X-NC, commercial use forbidden (InsightFace "
        "allows research only.); face_embedder 11, inswapper, licence X-NC, unknown whether commercial use is allowed: "
        "remove the version, or get a licence and set commercial_use to true in your own manifest, or use --policy any"
    )
    assert caught.value.exit_code == 8


def test_commercial_allows_what_is_cleared_and_any_allows_all() -> None:
    check_policy("commercial", [])
    check_policy("commercial", [ALLOWED])
    check_policy("any", [ALLOWED, FORBIDDEN, UNKNOWN])


def test_warnings_and_facts() -> None:
    assert licence_warnings([ALLOWED, FORBIDDEN]) == [f"licence: {describe(FORBIDDEN)}"]
    facts = {"model": "face_swapper", "version": 2, "name": "inswapper", "licence": "X-NC"}
    assert [licence_facts(manifest) for manifest in (ALLOWED, FORBIDDEN)] == [
        {**facts, "commercial_use": True},
        {**facts, "commercial_use": False},
    ]
    assert licence_facts(UNKNOWN)["commercial_use"] == "unknown"


def test_twins_are_named_with_their_seed() -> None:
    (line,) = twin_warnings([ALLOWED, with_use(True, twin_seed=0)])
    assert line.startswith("TWIN: face_swapper 2, inswapper: its weights are random numbers (seed 0)")
