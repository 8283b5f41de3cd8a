"""What is loaded on a replica in each phase of a rollout; what is there already is left alone, so all may be repeated.

A candidate of a pipeline is a model of its own until it is promoted: see ``staging``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from warmswap_ensemble.contract import PIPELINE_STAGES
from warmswap_ensemble.routes import CANDIDATE_SUFFIX
from warmswap_ops.errors import CandidateStoppedError, ModelLoadError
from warmswap_ops.rollout.journal import Journal
from warmswap_ops.rollout.record import Record
from warmswap_ops.rollout.replica import Replica


def served_candidates(record: Record) -> dict[str, int]:
    """Return the candidates of a rollout by the name that they are served under until it is promoted."""
    return {
        f"{model}{CANDIDATE_SUFFIX}" if model in PIPELINE_STAGES else model: version
        for model, version in record.candidate.items()
    }


@contextmanager
def _gently(replica: Replica, models: list[str]) -> Iterator[None]:
    """Let models load in the CPU time that requests leave; what the replica refuses stops the candidate."""
    replica.ask("gently", models=models)
    try:
        yield
    except ModelLoadError as error:
        raise CandidateStoppedError(f"{replica} refuses it: {error}") from error
    finally:
        replica.ask("gently", models=[])


class Loading:
    """Loads and unloads the versions of the rollout that a journal keeps."""

    def __init__(self, journal: Journal, load_timeout_s: float) -> None:
        """Prepare; ``load_timeout_s`` is how long one load may take."""
        self._journal = journal
        self._load_timeout_s = load_timeout_s

    def serve_both(self, replica: Replica) -> None:
        """Load the candidates beside the stable versions.

        Raises:
            CandidateStoppedError: the replica refuses one.
        """
        record = self._journal.record
        with _gently(replica, list(served_candidates(record))):
            for model, pair in record.versions.items():
                if model in PIPELINE_STAGES:
                    replica.ask("make_candidate", pipeline=model, version=pair[1])
                    if pair[1] not in replica.ready_versions(f"{model}{CANDIDATE_SUFFIX}"):
                        replica.load_model(f"{model}{CANDIDATE_SUFFIX}", self._load_timeout_s)
                else:
                    replica.serve_versions(model, sorted(pair), self._load_timeout_s)

    def load_both_again(self, replica: Replica) -> None:
        """Load the old versions, which are gone from memory when a rollout is done, beside the new ones."""
        for model, pair in self._journal.record.versions.items():
            replica.serve_versions(model, sorted(pair), self._load_timeout_s)

    def serve_candidate_pipelines(self, replica: Replica) -> None:
        """Load the candidates of pipelines under the name of the pipeline, beside the stable versions.

        Raises:
            CandidateStoppedError: the replica refuses one.
        """
        pipelines = self._pipelines()
        if all(replica.ready_versions(model) == set(pair) for model, pair in pipelines.items()):
            return
        with _gently(replica, list(pipelines)):
            for model, pair in pipelines.items():
                replica.serve_versions(model, sorted(pair), self._load_timeout_s)

    def serve_stable_pipelines(self, replica: Replica) -> None:
        """Let nothing but the stable versions of pipelines answer under their name, where they are loaded."""
        for model, pair in self._pipelines().items():
            if pair[0] in replica.ready_versions(model):
                replica.serve_versions(model, [pair[0]], self._load_timeout_s)

    def set_background(self, replica: Replica, *, on: bool) -> None:
        """Let the candidates run in CPU time that nobody else wants, or as all others do."""
        replica.ask("background", versions=served_candidates(self._journal.record), on=on)

    def clean_up(self, replica: Replica, serving: Mapping[str, int], *, discard: bool) -> dict[str, int]:
        """Leave nothing loaded but what serves.

        Args:
            replica: Where.
            serving: Model to the version that stays loaded.
            discard: Remove the candidates from disk, and not only what was made of them to be tried.

        Returns:
            Model to the highest version that is left on disk.
        """
        for model, version in serving.items():
            if version in replica.ready_versions(model):
                replica.serve_versions(model, [version], self._load_timeout_s)
            replica.unload_model(f"{model}{CANDIDATE_SUFFIX}")
        record = self._journal.record
        for model, version in record.candidate.items():
            replica.ask("discard", rollout=record.id, model=model, version=version if discard else None)
        hello = replica.ask("hello", models=list(serving))
        return {model: max(numbers, default=0) for model, numbers in hello["versions"].items()}

    def _pipelines(self) -> dict[str, tuple[int, int]]:
        versions = self._journal.record.versions
        return {model: pair for model, pair in versions.items() if model in PIPELINE_STAGES}
