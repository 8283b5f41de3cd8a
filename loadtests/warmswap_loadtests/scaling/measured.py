"""Measured start and service times, by pack and contender of ``warmswap bench cold``."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from warmswap_loadtests.avalanche.figures import COLD_FACTOR
from warmswap_loadtests.scaling.errors import PolicyError

SHIPPED: Final = "measured.toml"


@dataclass(frozen=True, slots=True)
class Measured:
    """One contender with one pack.

    Attributes:
        ready_s: From exec to ready.
        steady_s: Service time of a request when all is warm.
        first_s: Service time of the first request of a replica.
        source: Where the figures are from.
    """

    ready_s: float
    steady_s: float
    first_s: float
    source: str

    @property
    def first_is_cold(self) -> bool:
        """Whether the first request of a replica is served cold, as ``bench avalanche`` counts it."""
        return self.first_s > COLD_FACTOR * self.steady_s


def find_measured(pack: str, contender: str, results: Path | None = None) -> Measured:
    """Return the figures of a contender.

    Args:
        pack: ``open`` or ``twin``; with ``results``, the pack they must be of.
        contender: A name of ``warmswap bench cold``.
        results: ``results.json`` of a run of that command; ``None`` = the shipped figures.

    Raises:
        PolicyError: there are none.
    """
    packs = _from_results(results) if results else _shipped()
    if pack not in packs:
        raise PolicyError(f"no measured figures of pack {pack!r}; there are {', '.join(sorted(packs))}")
    if contender not in packs[pack]:
        known = ", ".join(sorted(packs[pack]))
        raise PolicyError(f"no measured figures of contender {contender!r} with pack {pack!r}; there are {known}")
    return packs[pack][contender]


@cache
def _shipped() -> Mapping[str, Mapping[str, Measured]]:
    text = files(__package__).joinpath(SHIPPED).read_text(encoding="utf-8")
    return {
        pack: {
            name: Measured(**figures, source=f"docs/benchmarks/cold-{pack}/results.json")
            for name, figures in contenders.items()
        }
        for pack, contenders in tomllib.loads(text).items()
    }


def _from_results(path: Path) -> Mapping[str, Mapping[str, Measured]]:
    try:
        return figures_of_results(json.loads(path.read_text(encoding="utf-8")), str(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PolicyError(f"{path} holds no results of `warmswap bench cold`: {error}") from error


def figures_of_results(results: Mapping[str, Any], source: str) -> dict[str, dict[str, Measured]]:
    """Return what a ``results.json`` says, by pack and contender; contenders that never answered are left out."""
    found: dict[str, Measured] = {}
    for entry in results["summary"]:
        values = {key: entry["metrics"][key]["median"] for key in ("ready_s", "steady_ms", "first_ratio")}
        if entry["contender"] not in found and None not in values.values():
            steady_s = values["steady_ms"] / 1e3
            found[entry["contender"]] = Measured(values["ready_s"], steady_s, values["first_ratio"] * steady_s, source)
    return {results["settings"]["pack"]: found}
