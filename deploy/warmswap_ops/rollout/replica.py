"""One replica as the tool sees it: its control API, and the agent that the tool loads into it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from warmswap_ensemble.routes import Routes, parse_routes
from warmswap_ops.access import Access
from warmswap_ops.control import ControlClient, HasClientArguments
from warmswap_ops.errors import (
    ControlDeniedError,
    ControlError,
    ModelLoadError,
    RolloutError,
    ServerUnreachableError,
    UnknownModelError,
)
from warmswap_ops.rollout.agent import CHANGED, DENIED
from warmswap_ops.rollout.calls import ModelCaller, bytes_array
from warmswap_ops.rollout.state_file import StateChangedError

AGENT: Final = "warmswap_rollout"
_TEXT: Final = {"data_type": "TYPE_STRING", "dims": [1]}
_CONFIG: Final = {
    "name": AGENT,
    "backend": "python",
    "max_batch_size": 0,
    "input": [{"name": "call", **_TEXT}, {"name": "data", **_TEXT, "optional": True}],
    "output": [{"name": "answer", **_TEXT}],
    "instance_group": [{"count": 1, "kind": "KIND_CPU"}],
}
_MODEL: Final = b'"""Loaded by ``warmswap rollout``."""\nfrom warmswap_ops.rollout.agent_model import AgentModel\n\n\
class TritonPythonModel(AgentModel):\n    """The name is fixed by Triton."""\n'
_NOT_LOADED: Final = ("unknown model", "not ready", "no available versions", "not found")
PART_BYTES: Final = 8 << 20
UPLOAD_TIMEOUT_S: Final = 120.0
SLOW_ANSWER_S: Final = 0.5
"""What took longer says little of the replica's clock."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The state of a replica.

    Attributes:
        routes: Its state.
        lease_left_s: How long whoever leads its rollout may still be at work; at most 0 = nobody is.
        clock_ahead_s: How much its clock is ahead of ours.
    """

    routes: Routes
    lease_left_s: float
    clock_ahead_s: float


class Replica:
    """A connection to one replica; safe to share between threads."""

    def __init__(self, address: str, access: Access, tls: HasClientArguments | None = None) -> None:
        """Prepare a connection to ``host:port`` of its gRPC port."""
        self.address = address
        self._access = access
        self._control = ControlClient(address, access, tls)
        self._caller = ModelCaller(address, tls)

    def __str__(self) -> str:
        """Return its address."""
        return self.address

    def close(self) -> None:
        """Close the connection; the agent stays, for the next one."""
        self._caller.close()
        self._control.close()

    def ask(self, do: str, data: bytes | None = None, timeout_s: float = 10.0, **arguments: Any) -> dict[str, Any]:
        """Call the agent; it is loaded first where it is not there.

        Raises:
            ControlDeniedError: the replica wants a token, or another one.
            StateChangedError: somebody else has changed the state.
            RolloutError: the agent says no, and why.
            ControlError: the replica does not answer, or not in time.
        """
        question = {"do": do, "token": self._access.token or "", **arguments}
        inputs = {"call": bytes_array(json.dumps(question).encode())}
        if data is not None:
            inputs["data"] = bytes_array(data)
        try:
            found = self._caller.infer(AGENT, inputs, ["answer"], timeout_s=timeout_s)
        except ControlError as error:
            if not any(text in str(error).lower() for text in _NOT_LOADED):
                raise
            self.load_agent()
            found = self._caller.infer(AGENT, inputs, ["answer"], timeout_s=timeout_s)
        answer: dict[str, Any] = json.loads(found["answer"].reshape(-1)[0])
        match answer.get("error"):
            case None:
                return answer
            case kind if kind == DENIED:
                raise ControlDeniedError(f"{self}: {answer['message']}; give it with --control-token-file")
            case kind if kind == CHANGED:
                raise StateChangedError(f"{self}: {answer['message']}")
            case _:
                raise RolloutError(f"{self}: {answer['message']}")

    def load_agent(self) -> None:
        """Load the agent, a model that needs no place in the repository.

        Raises:
            ControlDeniedError: the control API wants a token, or another one.
            ControlError: the replica does not answer, or cannot load it.
        """
        try:
            self._control.load(AGENT, _CONFIG, files={"1/model.py": _MODEL})
        except ModelLoadError as error:
            raise ControlError(f"{self} cannot load the rollout agent: {error.reason}") from error

    def state(self, now_s: Callable[[], float]) -> Seen:
        """Return its state; asked again where the answer took long, as it does while the agent is loaded."""
        for _ in range(2):
            before_s = now_s()
            answer = self.ask("state")
            after_s = now_s()
            if after_s - before_s < SLOW_ANSWER_S:
                break
        middle_s = (before_s + after_s) / 2
        routes = parse_routes(answer["routes"], str(self))
        return Seen(routes, float(answer["lease_left_s"]), float(answer["now_s"]) - middle_s)

    def upload(self, rollout: str, model: str, name: str, content: Callable[[int, int], bytes], size: int) -> None:
        """Send a file in parts."""
        offset = 0
        while True:
            part = content(offset, PART_BYTES)
            where = {"rollout": rollout, "model": model, "name": name, "offset": offset}
            self.ask("upload", part, UPLOAD_TIMEOUT_S, **where)
            offset += len(part)
            if offset >= size:
                return

    def ready_versions(self, model: str) -> set[int]:
        """Return the versions of a model that answer."""
        return {int(entry.version) for entry in self._control.index() if entry.name == model and entry.state == "READY"}

    def serve_versions(self, model: str, versions: Sequence[int], timeout_s: float) -> bool:
        """Let Triton serve exactly these versions of a model; others are not loaded again.

        Returns:
            Whether anything had to be done.

        Raises:
            ControlError: a version was refused, or the replica does not answer.
        """
        if self.ready_versions(model) == set(versions):
            return False
        config = self._control.model_config(model)
        config["version_policy"] = {"specific": {"versions": list(versions)}}
        self._control.load(model, config, timeout_s)
        return True

    def load_model(self, model: str, timeout_s: float) -> None:
        """Load a model as it lies in the repository."""
        self._control.load(model, timeout_s=timeout_s)

    def unload_model(self, model: str) -> None:
        """Unload a model, if it is there."""
        try:
            self._control.unload(model)
        except UnknownModelError:
            return


def is_lost(error: Exception) -> bool:
    """Whether an error says that a replica cannot be reached, rather than that it says no."""
    return isinstance(error, ServerUnreachableError) or (
        isinstance(error, ControlError) and not isinstance(error, ControlDeniedError | ModelLoadError)
    )
