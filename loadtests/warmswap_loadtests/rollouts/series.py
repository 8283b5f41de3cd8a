"""Fifty rollouts: which candidates come, in which order, and what must become of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from warmswap_loadtests.rollouts import candidates

GOOD: Final = "good"
TRIAL: Final = "trial"
LIVE: Final = "live"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of candidate.

    Attributes:
        name: What is good or bad about it.
        model: Whose version it is.
        expected: ``good`` = takes over; ``trial`` = stopped before it is loaded beside live traffic; ``live`` = rolled
            back from there.
        make: Makes it from repository, folder and number; returns the arguments of ``warmswap rollout run``.
    """

    name: str
    model: str
    expected: str
    make: Callable[[Path, Path, int], Sequence[str]]


def _one(make: Callable[[Path, Path], Path]) -> Callable[[Path, Path, int], Sequence[str]]:
    return lambda repository, folder, number: ["--candidate", str(make(repository, folder / "candidate"))]


def _tuned(repository: Path, folder: Path, number: int) -> Sequence[str]:
    score = 0.40 + 0.001 * number  # another one each time
    return ["--candidate", str(candidates.tuned_detector(repository, folder / "candidate", score))]


def _pair(repository: Path, folder: Path, number: int) -> Sequence[str]:
    space = f"dlib_resnet_v{number}"
    made = candidates.new_space(repository, folder / "embedder", folder / "swapper", space)
    return ["--candidate", str(made["face_embedder"]), "--with", f"face_swapper={made['face_swapper']}"]


GOOD_KINDS: Final = (
    Kind("tuned detector", "face_detector", GOOD, _tuned),
    Kind("new pipeline", "face_swap", GOOD, _one(candidates.pipeline)),
    Kind("tuned detector", "face_detector", GOOD, _tuned),
    Kind("embedder and swapper of a new space", "face_embedder", GOOD, _pair),
)


def _crashing(after: int) -> Callable[[Path, Path, int], Sequence[str]]:
    return _one(lambda repository, out: candidates.pipeline(repository, out, crash_after=after))


BAD_KINDS: Final = (
    Kind("corrupt file", "face_detector", TRIAL, _one(candidates.corrupt)),
    Kind("points 14 px off", "face_detector", LIVE, _one(lambda r, o: candidates.poor_detector(r, o, 14.0))),
    Kind("wrong contract", "face_detector", TRIAL, _one(candidates.wrong_contract)),
    Kind("crashes at its 41st request", "face_swap", LIVE, _crashing(40)),
    Kind("not a number", "face_detector", TRIAL, _one(candidates.not_finite)),
    Kind("1.7 times as slow", "face_detector", LIVE, _one(lambda r, o: candidates.slow_detector(r, o, 2))),
    Kind("ten times as slow", "face_detector", TRIAL, _one(candidates.slow_detector)),
    Kind("out of memory", "face_detector", TRIAL, _one(candidates.greedy_detector)),
    Kind("crashes at its first request", "face_swap", TRIAL, _crashing(0)),
)


def series(count: int) -> list[Kind]:
    """Return kinds by turns, good ones first."""
    return [
        GOOD_KINDS[number // 2 % len(GOOD_KINDS)] if number % 2 == 0 else BAD_KINDS[number // 2 % len(BAD_KINDS)]
        for number in range(count)
    ]
