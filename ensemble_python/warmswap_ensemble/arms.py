"""The versions that answer one request together, ready to be used: what a rollout chooses between."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from warmswap_ensemble.comparison import Seen
from warmswap_ensemble.contract import (
    FACE_DETECTOR,
    FACE_EMBEDDER,
    FACE_LANDMARKER,
    FACE_SWAPPER,
    PIPELINE_STAGES,
    swapper_variant,
)
from warmswap_ensemble.pipeline import Pipeline
from warmswap_ensemble.recording import RecordedCalls, Recorder, Replay
from warmswap_ensemble.routes import CANDIDATE_SUFFIX, Rollout, Routes
from warmswap_ensemble.source_cache import SourceCache
from warmswap_ensemble.stage_versions import Variants, resolve_stages, resolve_variants
from warmswap_ensemble.swappers import Swappers
from warmswap_ensemble.types import Stage


@dataclass(frozen=True, slots=True)
class PipelineArm:
    """One set of versions of one pipeline.

    Attributes:
        swappers: The pipeline, with each swapper that there is.
        stages: The stages, by role.
        forward_to: Another model that answers in this one's place, which is a candidate of the pipeline.
        own_executor: Ended with this arm; ``None`` = it is shared.
    """

    swappers: Swappers
    stages: dict[str, Stage]
    forward_to: str | None = None
    own_executor: ThreadPoolExecutor | None = None

    def close(self) -> None:
        """End what only this arm uses."""
        if self.own_executor is not None:
            self.own_executor.shutdown(wait=False)


@dataclass(frozen=True, slots=True)
class Role:
    """What one process of a pipeline is in the state of a rollout.

    A new version of the pipeline itself comes with its own stages: it never meets the others, whoever it serves.

    Attributes:
        pipeline: Its name.
        served_as: The model that it is loaded as; a candidate has a name of its own.
        version: Of the pipeline.
    """

    pipeline: str
    served_as: str
    version: int

    def is_candidate(self, rollout: Rollout | None) -> bool:
        """Whether this process is the candidate itself."""
        if rollout is None or self.pipeline not in rollout.versions:
            return self.served_as != self.pipeline
        return self.served_as != self.pipeline or self.version == rollout.versions[self.pipeline][1]

    def stable(self, state: Routes) -> dict[str, int]:
        """Return model to version of what answers here when no request is shared out."""
        own = state.rollout.candidate if state.rollout and self.is_candidate(state.rollout) else {}
        return {**state.stable, **own}

    def rollout(self, state: Routes) -> Rollout | None:
        """Return the rollout that requests are shared out for here, if there is one."""
        rollout = state.rollout
        if rollout is None or self.is_candidate(rollout) or not concerns(self.pipeline, rollout):
            return None
        return rollout

    def candidate(self, state: Routes) -> dict[str, int] | None:
        """Return model to version of what may answer in place of the stable versions."""
        rollout = self.rollout(state)
        return {**state.stable, **rollout.candidate} if rollout else None


def concerns(pipeline: str, rollout: Rollout) -> bool:
    """Whether a pipeline can meet a candidate of a rollout."""
    called = PIPELINE_STAGES[pipeline]
    takes_variants = FACE_SWAPPER.name in called
    return any(
        model == pipeline or model in called or (takes_variants and swapper_variant(model))
        for model in rollout.versions
    )


def find_versions(
    pipeline: str, repository: Path, configured: Mapping[str, str], versions: Mapping[str, int]
) -> tuple[dict[str, Stage], Variants]:
    """Return the stages of a pipeline, and the variants of the swapper where it swaps.

    Args:
        pipeline: Its name.
        repository: Folder of the models.
        configured: Pins of its configuration.
        versions: What the state of a rollout says, which knows better.

    Raises:
        ManifestError: a version is missing, or two do not belong together.
    """
    pins = {**configured, **{model: str(version) for model, version in versions.items()}}
    stages = resolve_stages(pipeline, repository, pins)
    if FACE_SWAPPER.name not in stages:
        return stages, Variants()
    return stages, resolve_variants(repository, pins, stages[FACE_EMBEDDER.name])


def forward_model(pipeline: str, rollout: Rollout | None) -> str | None:
    """Return the model that answers for a candidate of the pipeline; ``None`` where the pipeline stays the same."""
    return pipeline + CANDIDATE_SUFFIX if rollout is not None and pipeline in rollout.versions else None


def recorded(pipeline: Pipeline, recorder: Recorder) -> Pipeline:
    """Return a pipeline whose stage calls are kept."""
    call_model = recorder.recording(pipeline.calls.call_model)
    return replace(pipeline, calls=RecordedCalls.of(pipeline.calls, call_model, recorder.seen))


def second_look(
    pipeline: Pipeline, recorder: Recorder, models: Collection[str], *, was_cached: bool
) -> tuple[Pipeline, Seen]:
    """Return a pipeline that sees a recorded request again, and where it leaves what it sees.

    Args:
        pipeline: Of the candidates.
        recorder: What the stable versions were asked.
        models: Which of its stages are candidates.
        was_cached: Whether the first look knew the source already; then it must be looked at once here, too.
    """
    swaps = any(model == FACE_SWAPPER.name or swapper_variant(model) for model in models)
    may_follow = {FACE_EMBEDDER.name} if swaps else set()
    if FACE_DETECTOR.name in models:
        may_follow |= {FACE_LANDMARKER.name} if swaps else set()
    elif was_cached:
        may_follow |= {FACE_DETECTOR.name, FACE_LANDMARKER.name, FACE_EMBEDDER.name}
    seen = Seen()
    replay = Replay(recorder, pipeline.calls.call_model, models, may_follow)
    cache = pipeline.cache if was_cached else SourceCache(0)
    return replace(pipeline, calls=RecordedCalls.of(pipeline.calls, replay, seen), cache=cache), seen
