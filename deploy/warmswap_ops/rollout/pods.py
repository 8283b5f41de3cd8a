"""Judges a group of new replicas against the old ones with the gates of a hot rollout; changes nothing on either.

Decided as in a step of the plan: looked at ever more seldom, and every look costs some of the evidence. What passes
must pass once more when the last request has ended, so one that hangs is not forgotten.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from warmswap_client.errors import InvalidRequestError, WarmswapError
from warmswap_client.results import SwapResult
from warmswap_ops.errors import CandidateStoppedError, UsageError
from warmswap_ops.rollout.gates import Arm, Decision, Verdict, Window, alpha_of, decide, judge, missing_looks
from warmswap_ops.rollout.plan import Plan
from warmswap_ops.rollout.pod_load import Answer, Pair, PairLoad, Pictures, Swap
from warmswap_ops.rollout.pod_measures import compare_answers

Report = Callable[[str, Mapping[str, Any]], None]
"""Gets the name of an event and what there is to know of it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long is judged.

    Attributes:
        duration_s: At least.
        max_duration_s: At most; gates that cannot decide by then fail the candidate.
        min_samples: Answers of the candidate that were compared.
    """

    duration_s: float
    max_duration_s: float
    min_samples: int

    @classmethod
    def of(cls, plan: Plan, duration_s: float | None = None, max_duration_s: float | None = None) -> Limits:
        """Return those of the plan's last step, or what was given instead.

        Raises:
            UsageError: the longest time is below the shortest.
        """
        last = plan.steps[-1]
        shortest_s = last.soak_s if duration_s is None else duration_s
        longest_s = max(last.max_soak_s, shortest_s) if max_duration_s is None else max_duration_s
        if longest_s < shortest_s:
            raise UsageError(f"--max-duration must not be below --duration, got {longest_s:g} and {shortest_s:g} s")
        return cls(shortest_s, longest_s, max(last.min_samples, plan.shadow.min_samples))


async def warm_up(stable: Sequence[Swap], candidate: Sequence[Swap], pictures: Sequence[Pictures]) -> None:
    """Send every picture once to every replica, unmeasured: connections open, and sources are remembered.

    Raises:
        UsageError: the stable replicas refuse a picture, so nothing could be told by it.
    """
    for swap in stable:
        for each in pictures:
            try:
                await swap(each.source, each.target)
            except InvalidRequestError as error:
                raise UsageError(f"{each.name} is no use here: {error}") from error
            except WarmswapError:
                break  # it will be counted
    for swap in candidate:
        for each in pictures:
            try:
                await swap(each.source, each.target)
            except WarmswapError:
                break


async def judge_pods(load: PairLoad, plan: Plan, limits: Limits, report: Report) -> list[Verdict]:
    """Send, look, decide.

    Args:
        load: The requests; is started and ended here.
        plan: Its gates and limits of quality.
        limits: How long.
        report: Gets ``look`` and ``judged``.

    Returns:
        The verdicts with which the candidate passed.

    Raises:
        CandidateStoppedError: a gate failed, or there was not enough to judge by in time.
    """
    looks = plan.looks(limits.max_duration_s) + 1
    started_s = time.monotonic()
    sending = asyncio.create_task(load.run())
    try:
        look_s = plan.interval_s
        while True:
            due_s = min(look_s, limits.max_duration_s)
            done, _ = await asyncio.wait([sending], timeout=max(0.0, started_s + due_s - time.monotonic()))
            if done:
                sending.result()  # it ends by itself only if it is broken
            elapsed_s = time.monotonic() - started_s
            verdicts, decision, reason = _look(
                load.pairs,
                plan,
                limits,
                looks,
                soaked=elapsed_s >= limits.duration_s,
                timed_out=elapsed_s >= limits.max_duration_s,
            )
            if decision is not Decision.WAIT:
                break
            report("look", _facts(load.pairs, verdicts, decision))
            look_s = plan.next_look_s(look_s)
        load.stop()
        if decision is Decision.ADVANCE:
            await sending
            verdicts, decision, reason = _look(load.pairs, plan, limits, looks, soaked=True, timed_out=True)
    finally:
        sending.cancel()
        await asyncio.wait([sending])
    report("judged", _facts(load.pairs, verdicts, decision))
    if decision is not Decision.ADVANCE:
        raise CandidateStoppedError(f"the candidate is not fit to take over: {reason}{_failures(load.pairs)}")
    return verdicts


def window_of(pairs: Sequence[Pair]) -> Window:
    """Return what the gates look at: of each pair both answers, or neither."""
    measures: dict[str, list[float]] = {}
    for pair in pairs:
        for name, value in compare_answers(pair.stable.outcome, pair.candidate.outcome).items():
            measures.setdefault(name, []).append(value)
    stable, candidate = (_arm([pair.stable for pair in pairs]), _arm([pair.candidate for pair in pairs]))
    return Window(stable, candidate, measures)


def _arm(answers: Sequence[Answer]) -> Arm:
    times = [answer.ms for answer in answers if isinstance(answer.outcome, SwapResult)]
    return Arm(len(answers), len(answers) - len(times), times)


def _look(
    pairs: Sequence[Pair], plan: Plan, limits: Limits, looks: int, *, soaked: bool, timed_out: bool
) -> tuple[list[Verdict], Decision, str]:
    window = window_of(pairs)
    verdicts = judge(window, plan, looks=looks)
    compared = len(window.measures.get("recall", ()))
    missing = missing_looks(
        verdicts, compared, limits.min_samples, alpha_of(plan, looks), what="requests reached the candidate"
    )
    decision, reason = decide(
        verdicts,
        missing=missing,
        soaked=soaked,
        timed_out=timed_out,
        needs_evidence=plan.gates.strict,
    )
    return verdicts, decision, reason


def _facts(pairs: Sequence[Pair], verdicts: Sequence[Verdict], decision: Decision) -> dict[str, Any]:
    return {
        "decision": {Decision.ADVANCE: "pass", Decision.ROLL_BACK: "fail"}.get(decision, "wait"),
        "pairs": len(pairs),
        "verdicts": [verdict.as_json() for verdict in verdicts],
    }


def _failures(pairs: Sequence[Pair]) -> str:
    """Return the most frequent error of the candidate, for the message."""
    errors = Counter(str(pair.candidate.outcome) for pair in pairs if isinstance(pair.candidate.outcome, WarmswapError))
    return "".join(f" ({count} times: {text})" for text, count in errors.most_common(1))
