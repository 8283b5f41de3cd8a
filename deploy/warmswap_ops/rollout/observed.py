"""What the pipelines of all replicas have seen of a rollout, put together for the gates and the report."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from warmswap_ops.rollout.gates import Arm, Window
from warmswap_ops.rollout.replica import Replica

STABLE: Final = "stable"
CANDIDATE: Final = "candidate"
RESTARTED: Final = "restarted"
"""Kind of an observation of our own, beside those of the pipelines."""


@dataclass(slots=True)
class Observed:
    """All observations, by time of the tool's clock.

    Attributes:
        requests: (time, arm, milliseconds, failed, outcome).
        looks: (time, measures, error) of second looks.
        breakers: (time, reason): a process gives the candidate nothing more.
        dropped: Second looks that nobody had time for, and one for each of ``restarts``.
        restarts: (time, replica): a launcher was started anew. What its pipelines had seen last, and nobody had
            fetched, is gone; what was fetched before counts.
    """

    requests: list[tuple[float, str, float, bool, str]] = field(default_factory=list)
    looks: list[tuple[float, Mapping[str, float], str | None]] = field(default_factory=list)
    breakers: list[tuple[float, str]] = field(default_factory=list)
    dropped: int = 0
    restarts: list[tuple[float, str]] = field(default_factory=list)
    _cursors: dict[str, dict[str, int]] = field(default_factory=dict)
    _runs: dict[str, str] = field(default_factory=dict)

    def fetch(self, replica: Replica, rollout: str) -> list[str]:
        """Ask a replica for what is new; that its launcher was started anew is news, too."""
        answer = replica.ask("observe", rollout=rollout, cursors=self._cursors.get(replica.address, {}))
        self._cursors[replica.address] = answer["cursors"]
        lines: list[str] = answer["lines"]
        run = str(answer.get("run", ""))  # older agents do not say
        if self._runs.setdefault(replica.address, run) != run:
            self._runs[replica.address] = run
            facts = {"kind": RESTARTED, "t": answer["now_s"], "replica": replica.address}
            lines = [json.dumps(facts), *lines]
        return lines

    def add(self, lines: Iterable[str], clock_ahead_s: float = 0.0) -> None:
        """Add what a replica, whose clock may be wrong, has seen."""
        for line in lines:
            try:
                values: dict[str, Any] = json.loads(line)
                self._add(values, float(values["t"]) - clock_ahead_s)
            except (ValueError, KeyError, TypeError):
                continue  # cut short by a process that was ended

    def window(self, since_s: float, until_s: float = float("inf"), *, measures_since_s: float = 0.0) -> Window:
        """Return what was seen in a stretch of time.

        Args:
            since_s: Of the requests.
            until_s: Of the requests.
            measures_since_s: Of the second looks, which do not depend on the share.
        """
        arms: dict[str, tuple[list[float], list[bool]]] = {STABLE: ([], []), CANDIDATE: ([], [])}
        for at_s, arm, ms, failed, outcome in self.requests:
            if since_s <= at_s < until_s and arm in arms:
                arms[arm][1].append(failed)
                if outcome == "ok":
                    arms[arm][0].append(ms)
        measures: dict[str, list[float]] = {}
        for at_s, found, _ in self.looks:
            if at_s >= measures_since_s:
                for name, value in found.items():
                    measures.setdefault(name, []).append(value)
        stable, candidate = (
            Arm(requests=len(failed), errors=sum(failed), latencies_ms=times) for times, failed in arms.values()
        )
        return Window(stable, candidate, measures)

    def step_window(
        self, started_s: float, since_s: float, weight: float, baseline: Arm | None
    ) -> tuple[Window, Arm | None]:
        """Return what was seen in a step, and what to compare the candidate with should the step leave no requests.

        Args:
            started_s: When the rollout began; second looks count from there.
            since_s: When the step began.
            weight: Share of the candidate.
            baseline: The stable version's arm in the step before; ``None`` = not known, after an interruption.
        """
        window = self.window(since_s, measures_since_s=started_s)
        if weight < 1:
            return window, window.stable
        # Requests that were under way when the step began are no arm.
        return replace(window, stable=Arm()), baseline or self.window(started_s, since_s).stable

    def look_errors(self, since_s: float) -> Counter[str]:
        """Return what second looks failed with."""
        return Counter(error for at_s, _, error in self.looks if error and at_s >= since_s)

    def looks_since(self, since_s: float) -> int:
        """Return how many second looks there were."""
        return sum(at_s >= since_s for at_s, _, _ in self.looks)

    def breaker_since(self, since_s: float) -> str | None:
        """Return why a process gives the candidate nothing more, if one does."""
        return next((reason for at_s, reason in self.breakers if at_s >= since_s), None)

    def _add(self, values: Mapping[str, Any], at_s: float) -> None:
        match values["kind"]:
            case "request":
                found = (str(values["arm"]), float(values["ms"]), bool(values["failed"]), str(values["outcome"]))
                self.requests.append((at_s, *found))
            case "shadow":
                self.looks.append((at_s, values["measures"], values["error"]))
            case "breaker":
                self.breakers.append((at_s, str(values["reason"])))
            case "dropped":
                self.dropped += 1
            case kind if kind == RESTARTED:
                self.restarts.append((at_s, str(values["replica"])))
                self.dropped += 1
