"""The swappers that a request may choose from: ``face_swapper`` itself, and its variants."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from warmswap_ensemble.contract import DEFAULT_SWAPPER, FACE_SWAPPER, SWAPPER_VARIANT_PREFIX
from warmswap_ensemble.errors import InvalidOptionError, StageFailedError
from warmswap_ensemble.pipeline import Pipeline
from warmswap_ensemble.stage_versions import Variants


@dataclass(frozen=True, slots=True)
class Swappers:
    """One pipeline for each swapper; they share everything else, the cache of sources too.

    Attributes:
        pipelines: By the value of the option ``swapper``.
        refused: Variants that cannot be used, and why.
    """

    pipelines: Mapping[str, Pipeline]
    refused: Mapping[str, str]

    @classmethod
    def of(cls, pipeline: Pipeline, variants: Variants) -> Swappers:
        """Return the swappers of a pipeline.

        Args:
            pipeline: With ``face_swapper``.
            variants: What stands beside it.
        """
        pipelines = {DEFAULT_SWAPPER: pipeline}
        for name, stage in variants.usable.items():
            calls = replace(pipeline.calls, stages={**pipeline.calls.stages, FACE_SWAPPER.name: stage})
            pipelines[name] = replace(pipeline, calls=calls)
        return cls(pipelines, variants.refused)

    def choose(self, name: str) -> Pipeline:
        """Return the pipeline that a request asks for.

        Raises:
            InvalidOptionError: there is no such variant.
            StageFailedError: the variant is there and cannot be used.
        """
        if name in self.pipelines:
            return self.pipelines[name]
        if name in self.refused:
            raise StageFailedError(f"{SWAPPER_VARIANT_PREFIX}{name} cannot be used: {self.refused[name]}")
        known = [*self.pipelines, *self.refused]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise InvalidOptionError(f"swapper must be one of {', '.join(known)}, got {name!r}{hint}")
