"""The plan of a rollout: how much traffic when, for how long, and what the candidate must not do; a TOML file.

``examples/rollout-plan.toml`` names every key. What is left out has the value that it has there.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from warmswap_ops.errors import UsageError


@dataclass(frozen=True, slots=True)
class Shadow:
    """Requests that the candidate is shown after they were answered.

    Attributes:
        share: Part of the requests, 0 to 1; 0 = none are.
        duration_s: For how long, before the candidate answers anything.
        min_samples: How many second looks it takes; never fewer than the quality gates need to say anything.
        max_duration_s: How long to wait for them.
    """

    share: float = 0.1
    duration_s: float = 60.0
    min_samples: int = 30
    max_duration_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Step:
    """A share of the requests for a while.

    Attributes:
        weight_percent: Of the requests that the candidate answers, above 0, at most 100.
        soak_s: For how long.
        min_samples: How many answers of the candidate it takes.
        max_soak_s: How long to wait for them, and for gates that cannot decide.
    """

    weight_percent: float
    soak_s: float = 60.0
    min_samples: int = 10
    max_soak_s: float = 900.0

    @property
    def weight(self) -> float:
        """The share, 0 to 1."""
        return self.weight_percent / 100


@dataclass(frozen=True, slots=True)
class Gates:
    """What the candidate must not do, compared with what the stable version does at the same time.

    Attributes:
        confidence: Of every decision, over all looks of one step together.
        max_error_increase: Difference of the ratios of failed requests.
        max_p50_ratio: Of the medians of the latencies.
        max_p99_ratio: Of their 99th percentiles.
        min_slowdown_ms: A difference below this is never held against it.
        strict: Whether the last steps need evidence that there is no harm, not only no evidence of harm.
    """

    confidence: float = 0.95
    max_error_increase: float = 0.01
    max_p50_ratio: float = 1.25
    max_p99_ratio: float = 1.5
    min_slowdown_ms: float = 5.0
    strict: bool = True


@dataclass(frozen=True, slots=True)
class Quality:
    """Limits of the means of what second looks measure; see ``warmswap_ensemble.comparison``."""

    min_recall: float = 0.95
    min_precision: float = 0.9
    min_iou: float = 0.8
    max_kps_error: float = 0.1
    max_landmark_error: float = 0.05
    min_cosine: float = 0.99
    min_psnr_db: float = 25.0
    min_ssim: float = 0.8
    min_identity_gain: float = -0.05


@dataclass(frozen=True, slots=True)
class Trial:
    """Limits of the trial before anything is loaded beside live traffic.

    Attributes:
        max_p50_ratio: Of the candidate's time for a warm-up sample to the stable version's.
        timeout_s: How long the trial may take.
    """

    max_p50_ratio: float = 3.0
    timeout_s: float = 300.0


DEFAULT_STEPS: Final = tuple(Step(percent) for percent in (1.0, 5.0, 25.0, 50.0, 100.0))


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole rollout.

    Attributes:
        trial: Before anything is loaded beside live traffic.
        shadow: Before the candidate answers anything.
        steps: What it answers.
        gates: What it must not do.
        quality: What its answers must be.
        soak_s: How long the old version stays loaded after the promotion.
        interval_s: Between two looks.
        patience_ms: How long a request waits for the candidate before the stable version answers it.
        unreachable_s: How long a replica may not answer before the rollout is given up.
    """

    trial: Trial = field(default_factory=Trial)
    shadow: Shadow = field(default_factory=Shadow)
    steps: tuple[Step, ...] = DEFAULT_STEPS
    gates: Gates = field(default_factory=Gates)
    quality: Quality = field(default_factory=Quality)
    soak_s: float = 300.0
    interval_s: float = 2.0
    patience_ms: float = 3000.0
    unreachable_s: float = 30.0

    def as_json(self) -> dict[str, Any]:
        """Return JSON values, for ``plan_from_values``."""
        return asdict(self)

    def next_look_s(self, elapsed_s: float) -> float:
        """Return when the gates are looked at again: ever more seldom, since every look costs some of the evidence."""
        return elapsed_s + max(self.interval_s, 0.1 * elapsed_s)

    def looks(self, duration_s: float) -> int:
        """Return how often the gates are looked at in that time."""
        count, at_s = 1, self.interval_s
        while at_s < duration_s:
            at_s = self.next_look_s(at_s)
            count += 1
        return count


def read_plan(path: Path | None) -> Plan:
    """Read a plan; ``None`` = the default.

    Raises:
        UsageError: it cannot be read, or says something that is not understood.
    """
    if path is None:
        return Plan()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"plan {path} cannot be read: {error}") from error
    return parse_plan(text, str(path))


def parse_plan(text: str, origin: str) -> Plan:
    """Read the text of a plan.

    Raises:
        UsageError: it says something that is not understood; one sentence, with what is allowed.
    """
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also numbers with thousands of digits, and brackets as deep
        raise UsageError(f"{origin} is not TOML: {error}") from error
    return plan_from_values(values, origin)


def plan_from_values(values: Mapping[str, Any], origin: str) -> Plan:
    """Read a plan from values as they come from TOML or JSON.

    Raises:
        UsageError: it says something that is not understood.
    """
    _refuse_unknown(values, [item.name for item in fields(Plan)], origin)
    plan = Plan(
        trial=Trial(**_table(values, "trial", Trial, origin)),
        shadow=Shadow(**_table(values, "shadow", Shadow, origin)),
        steps=_steps(values["steps"], origin) if "steps" in values else DEFAULT_STEPS,
        gates=Gates(**_table(values, "gates", Gates, origin)),
        quality=Quality(**_table(values, "quality", Quality, origin)),
        **_checked({name: values[name] for name in _PLAN_NUMBERS if name in values}, origin),
    )
    if plan.shadow.max_duration_s < plan.shadow.duration_s:
        raise UsageError(f"{origin}: [shadow] max_duration_s must not be below duration_s")
    return plan


def _steps(values: Any, origin: str) -> tuple[Step, ...]:
    if not isinstance(values, list | tuple) or not values:
        raise UsageError(f"{origin}: steps must be tables [[steps]] with weight_percent, at least one")
    steps: list[Step] = []
    for number, value in enumerate(values, 1):
        place = f"{origin}: step {number}"
        if not isinstance(value, Mapping) or "weight_percent" not in value:
            raise UsageError(f"{place} must be a table with weight_percent, got {value!r}")
        _refuse_unknown(value, [item.name for item in fields(Step)], place)
        step = Step(**_checked(value, place))
        if steps and step.weight_percent <= steps[-1].weight_percent:
            raise UsageError(
                f"{place}: weight_percent must be above that of the step before, {steps[-1].weight_percent:g}, "
                f"got {step.weight_percent:g}"
            )
        if step.max_soak_s < step.soak_s:
            raise UsageError(f"{place}: max_soak_s must not be below soak_s")
        steps.append(step)
    if steps[-1].weight_percent != 100:
        raise UsageError(f"{origin}: the last step must have weight_percent = 100, got {steps[-1].weight_percent:g}")
    return tuple(steps)


def _table(values: Mapping[str, Any], name: str, kind: type, origin: str) -> dict[str, Any]:
    table, place = values.get(name, {}), f"{origin}: [{name}]"
    if not isinstance(table, Mapping):
        raise UsageError(f"{place} must be a table, got {table!r}")
    _refuse_unknown(table, [item.name for item in fields(kind)], place)
    return _checked(table, place)


def _checked(values: Mapping[str, Any], place: str) -> dict[str, Any]:
    for name, value in values.items():
        expected, fits = _RULES.get(name, _POSITIVE)
        is_number = _is_number(value)
        if not (fits(value) if name == "strict" else is_number and fits(value)):
            raise UsageError(f"{place}: {name} must be {expected}, got {value!r}")
    return dict(values)


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer that no float can hold
        return False


def _refuse_unknown(values: Mapping[str, Any], known: list[str], place: str) -> None:
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise UsageError(f"{place}: unknown key {name!r}{hint}; known are {', '.join(known)}")


_PLAN_NUMBERS: Final = ("soak_s", "interval_s", "patience_ms", "unreachable_s")

_Rule = tuple[str, Callable[[Any], bool]]
_POSITIVE: Final[_Rule] = ("a number above 0", lambda value: value > 0)
_NOT_NEGATIVE: Final[_Rule] = ("a number from 0", lambda value: value >= 0)
_WHOLE: Final[_Rule] = ("a whole number from 0", lambda value: isinstance(value, int) and value >= 0)
_SHARE: Final[_Rule] = ("a number from 0 to 1", lambda value: 0 <= value <= 1)
_RATIO: Final[_Rule] = ("a number from 1", lambda value: value >= 1)
_RULES: Final[dict[str, _Rule]] = {
    "share": _SHARE,
    "duration_s": _NOT_NEGATIVE,
    "max_duration_s": _NOT_NEGATIVE,
    "min_samples": _WHOLE,
    "weight_percent": ("a number above 0, at most 100", lambda value: 0 < value <= 100),
    "soak_s": _NOT_NEGATIVE,
    "max_soak_s": _NOT_NEGATIVE,
    "confidence": ("a number from 0.5, below 1", lambda value: 0.5 <= value < 1),
    "max_error_increase": _SHARE,
    "max_p50_ratio": _RATIO,
    "max_p99_ratio": _RATIO,
    "min_slowdown_ms": _NOT_NEGATIVE,
    "strict": ("true or false", lambda value: isinstance(value, bool)),
    "min_recall": _SHARE,
    "min_precision": _SHARE,
    "min_iou": _SHARE,
    "min_cosine": ("a number from -1 to 1", lambda value: -1 <= value <= 1),
    "min_ssim": ("a number from -1 to 1", lambda value: -1 <= value <= 1),
    "min_identity_gain": ("a number from -2 to 2", lambda value: -2 <= value <= 2),
}
