"""The plan behind each method of the clients; see ``steps``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from warmswap_client import errors
from warmswap_client.files import ImageSource, read_image
from warmswap_client.options import AnalyzeOptions, SwapOptions, encode_parameters
from warmswap_client.request_id import choose_request_id
from warmswap_client.results import AnalysisResult, SwapResult, parse_analysis, parse_swap
from warmswap_client.retry import RetryPolicy, call_with_retries
from warmswap_client.status import ModelStatus, ServerStatus, parse_runtime, readable_reason
from warmswap_client.steps import Call, Pause, Plan
from warmswap_ensemble.contract import ANALYZE_OPTIONS, FACE_ANALYSIS, FACE_SWAP, MODELS, SWAP_OPTIONS, ModelSpec

T = TypeVar("T")

POLL_INTERVAL_S: Final = 0.1
PROBE_TIMEOUT_S: Final = 5.0
"""A single question of ``wait_until_ready``; a server that hangs is asked again."""
LAST_QUESTION_S: Final = 1.0
"""How long ``wait_until_ready`` may overrun to learn why the model is not ready."""

_NOT_READY: Final = (
    errors.ServerUnreachableError,
    errors.RequestTimeoutError,
    errors.RequestCancelledError,
    errors.UnknownModelError,
    errors.ServerBusyError,
    errors.ServerFailedError,
)
"""Errors that mean "no" to the question whether something is live or ready."""


@dataclass(frozen=True, slots=True)
class Planner:
    """Makes plans for one server.

    Attributes:
        url: The server, for error messages.
        timeout_s: Deadline of a call that does not bring its own.
        retry: When to try again.
        clock: Monotonic seconds.
    """

    url: str
    timeout_s: float
    retry: RetryPolicy
    clock: Callable[[], float]

    def __post_init__(self) -> None:
        """Refuse a deadline that nothing can meet."""
        self._deadline(self.timeout_s)

    def _deadline(self, timeout_s: float | None) -> float:
        chosen_s = self.timeout_s if timeout_s is None else timeout_s
        if not chosen_s > 0:
            raise ValueError(f"timeout_s must be above 0, got {chosen_s}")
        return chosen_s

    def swap(
        self,
        source: ImageSource,
        target: ImageSource,
        reference: ImageSource | None,
        timeout_s: float | None,
        request_id: str | None,
        options: SwapOptions,
    ) -> Plan[SwapResult]:
        """Put the face of one picture into another."""
        inputs = {"source_image": read_image(source), "target_image": read_image(target)}
        if reference is not None:
            inputs["reference_image"] = read_image(reference)
        parameters = encode_parameters(options, SWAP_OPTIONS)
        return (yield from self._infer(FACE_SWAP, inputs, parameters, timeout_s, request_id, parse_swap))

    def analyze(
        self, image: ImageSource, timeout_s: float | None, request_id: str | None, options: AnalyzeOptions
    ) -> Plan[AnalysisResult]:
        """Find the faces of a picture."""
        inputs = {"image": read_image(image)}
        parameters = encode_parameters(options, ANALYZE_OPTIONS)
        return (yield from self._infer(FACE_ANALYSIS, inputs, parameters, timeout_s, request_id, parse_analysis))

    def _infer(
        self,
        model: ModelSpec,
        inputs: dict[str, bytes],
        parameters: dict[str, str | int],
        timeout_s: float | None,
        request_id: str | None,
        parse: Callable[..., T],
    ) -> Plan[T]:
        """Ask a model, under one id however many attempts it takes."""
        chosen_id = choose_request_id(request_id)
        try:
            outputs = yield from call_with_retries(
                self.retry,
                self._deadline(timeout_s),
                self.clock,
                "infer",
                model=model.name,
                inputs=inputs,
                outputs=[output.name for output in model.outputs],
                parameters=parameters,
                request_id=chosen_id,
            )
            return parse(outputs, url=self.url, model=model.name, request_id=chosen_id)
        except errors.WarmswapError as error:
            error.request_id = chosen_id
            raise

    def is_live(self) -> Plan[bool]:
        """Ask once; no answer is a no."""
        return self._ask("server_live", self.timeout_s)

    def is_ready(self, model: str) -> Plan[bool]:
        """Ask once; no answer is a no."""
        return self._ask("model_ready", self.timeout_s, model=model)

    def _ask(self, method: str, timeout_s: float, **arguments: object) -> Plan[bool]:
        try:
            return bool((yield Call(method, timeout_s, arguments)))
        except _NOT_READY:
            return False

    def status(self) -> Plan[ServerStatus]:
        """Ask for everything that the server tells about itself, within one deadline and without retries."""
        deadline_s = self.clock() + self.timeout_s

        def remaining_s() -> float:
            return max(deadline_s - self.clock(), 0.001)

        live = yield Call("server_live", remaining_s())
        server_ready = yield Call("server_ready", remaining_s())
        ready = yield from self._ask("model_ready", remaining_s(), model=FACE_SWAP.name)
        metadata = yield Call("server_metadata", remaining_s())
        try:
            index = yield Call("repository_index", remaining_s())
        except errors.AccessDeniedError:  # model control may be closed to clients; readiness never is
            index = []
            for name in MODELS:
                state = "READY" if (yield from self._ask("model_ready", remaining_s(), model=name)) else "UNAVAILABLE"
                index.append({"name": name, "state": state, "reason": "the repository index is closed to clients"})
        return ServerStatus(
            url=self.url,
            live=live,
            ready=ready,
            server_ready=server_ready,
            name=metadata["name"],
            version=metadata["version"],
            runtime=parse_runtime(metadata["name"], metadata["version"]),
            models=tuple(
                ModelStatus(
                    row.get("name", ""),
                    row.get("version", ""),
                    row.get("state", ""),
                    readable_reason(row.get("reason", "")),
                )
                for row in index
            ),
        )

    def wait_until_ready(self, timeout_s: float, model: str) -> Plan[None]:
        """Ask until the model answers requests."""
        deadline_s = self.clock() + self._deadline(timeout_s)
        connected, last_state = False, "nothing was asked yet"
        while (remaining_s := deadline_s - self.clock()) > 0:
            question_s = min(remaining_s, PROBE_TIMEOUT_S)
            try:
                if not connected:  # before the first word of gRPC, see ``tcp``
                    yield Call("connect", question_s)
                    connected = True
                if (yield Call("model_ready", question_s, {"model": model})):
                    return
                last_state = "the server answers, but the model is not ready"
            except errors.ServerUnreachableError as error:
                connected = False
                last_state = f"no connection: {error.reason}"
            except _NOT_READY as error:
                last_state = str(error)
            yield Pause(min(POLL_INTERVAL_S, max(deadline_s - self.clock(), 0.0)))
        if connected:
            last_state = yield from self._explain(model, last_state)
        reason = f"{last_state} (waited {timeout_s:.3g} s)"
        raise errors.NotReadyError(reason, url=self.url, model=model)

    def _explain(self, model: str, last_state: str) -> Plan[str]:
        """Ask the repository index why a model is not ready; only once, because it is slow on object stores."""
        try:
            index = yield Call("repository_index", LAST_QUESTION_S)
        except errors.WarmswapError:
            return last_state
        rows = [row for row in index if row["name"] == model]
        if not rows:
            return f"{last_state}; it is not in the server's repository"
        states = (f"version {row.get('version') or '?'} is {row.get('state') or 'not loaded'}" for row in rows)
        reasons = (row.get("reason", "") for row in rows)
        return "; ".join([last_state, *states, *(reason for reason in reasons if reason)])
