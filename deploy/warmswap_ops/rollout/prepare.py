"""What a replica must have done before a candidate is loaded beside live traffic: got its files, and tried it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from warmswap_ops.errors import CandidateStoppedError
from warmswap_ops.rollout.checks import Candidate
from warmswap_ops.rollout.journal import Journal
from warmswap_ops.rollout.record import Record
from warmswap_ops.rollout.replica import UPLOAD_TIMEOUT_S, Replica

POLL_S: Final = 0.2


def send_candidates(replica: Replica, record: Record, candidates: Mapping[str, Candidate]) -> None:
    """Send the files of candidates, and let each have its number.

    Raises:
        RolloutError: the replica does not take them.
        ControlError: the replica cannot be reached.
    """
    for model, candidate in candidates.items():
        for name in candidate.files:
            with (candidate.folder / name).open("rb") as file:

                def part(offset: int, size: int) -> bytes:
                    file.seek(offset)
                    return file.read(size)

                size = (candidate.folder / name).stat().st_size
                replica.upload(record.id, model, name, part, size)
        number = record.candidate[model]
        what = {"rollout": record.id, "model": model, "version": number, "files": dict(candidate.files)}
        replica.ask("settle", None, UPLOAD_TIMEOUT_S, **what)


def try_candidates(replica: Replica, journal: Journal) -> dict[str, Any]:
    """Try the candidates in a server of their own.

    Returns:
        What the trial has found: ``ok``, and the ``reason`` where it is not.

    Raises:
        CandidateStoppedError: the trial does not end.
        OpsError: it cannot begin, or somebody else leads the rollout now.
    """
    record, plan = journal.record, journal.plan
    limits = {"max_p50_ratio": plan.trial.max_p50_ratio, "min_slowdown_ms": plan.gates.min_slowdown_ms}
    replica.ask("prove", rollout=record.id, versions=record.versions_json, limits=limits)
    found: dict[str, Any] = {"done": False}
    deadline_s = time.monotonic() + plan.trial.timeout_s
    while not found["done"]:
        if time.monotonic() > deadline_s:
            raise CandidateStoppedError(f"its trial on {replica} has not ended in {plan.trial.timeout_s:g} s")
        time.sleep(POLL_S)
        journal.renew()
        found = replica.ask("proved", rollout=record.id)
    return found
