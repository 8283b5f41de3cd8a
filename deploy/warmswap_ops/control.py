"""The control API: load, unload, index, readiness. gRPC only.

An HTTP load freezes every keep-alive connection of its worker thread, probes included (facts/triton.md section 5); a
gRPC load has a thread of its own. Beside ``rollout.calls`` this is the only module of the operations side that knows
tritonclient, whose import takes 0.2 s: import it while the server starts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Protocol, Self

from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from warmswap_ops.access import OPEN, Access
from warmswap_ops.errors import (
    ControlDeniedError,
    ControlError,
    ControlTimeoutError,
    LoadTimeoutError,
    ModelLoadError,
    ServerUnreachableError,
    UnknownModelError,
)
from warmswap_ops.triton_log import load_failure

DEFAULT_TIMEOUT_S: Final = 10.0
DEFAULT_LOAD_TIMEOUT_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class ModelState:
    """One line of the repository index.

    Attributes:
        name: Model.
        version: Version, empty for a model that was never loaded.
        state: ``READY``, ``LOADING``, ``UNLOADING``, ``UNAVAILABLE``, or empty.
        reason: Why it is not ready.
    """

    name: str
    version: str
    state: str
    reason: str


class HasClientArguments(Protocol):
    """Knows how to speak TLS: ``tls.Tls`` to the server of this machine, ``rollout.tls.RolloutTls`` to any."""

    def client_arguments(self) -> dict[str, Any]:
        """Return arguments of ``InferenceServerClient``."""


@dataclass(frozen=True, slots=True)
class ServerMetadata:
    """What a server says of itself; ``name`` is its ``--id``."""

    name: str
    version: str


class ControlClient:
    """A connection to the control API of one server; safe to share between threads."""

    def __init__(self, grpc_address: str, access: Access = OPEN, tls: HasClientArguments | None = None) -> None:
        """Prepare the connection: the port should be open, or gRPC falls into its reconnect backoff.

        Args:
            grpc_address: ``host:port``.
            access: The token, where the server wants one.
            tls: How to speak TLS; ``None`` = not.
        """
        self._address = grpc_address
        self._headers = access.grpc_headers()
        self._client = InferenceServerClient(grpc_address, **(tls.client_arguments() if tls else {}))

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connection."""
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def load(
        self,
        model: str,
        config: Mapping[str, Any] | None = None,
        timeout_s: float = DEFAULT_LOAD_TIMEOUT_S,
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        """Load a model, or bring it up to date; returns when it is READY, warm-up included.

        Args:
            model: Folder in the model repository.
            config: Replaces ``config.pbtxt`` (its JSON form), for example to change the version policy.
            timeout_s: How long a load may take; Triton goes on loading after that.
            files: Replace those of the repository: ``1/model.py`` to content; they need a ``config``.

        Raises:
            ModelLoadError: the model was refused.
            LoadTimeoutError: it took longer.
            ServerUnreachableError: the server is not there, or went away.
            ControlDeniedError: the server wants another token.
        """
        override = json.dumps(config) if config is not None else None
        given = {f"file:{name}": content for name, content in files.items()} if files else None
        try:
            self._client.load_model(
                model, headers=self._headers, config=override, files=given, client_timeout=timeout_s
            )
        except InferenceServerException as error:
            status = _status(error)
            if _is_denied(error):
                raise self._denied(f"load {model}") from error
            if status == "DEADLINE_EXCEEDED":
                raise LoadTimeoutError(model, timeout_s) from error
            if status in ("UNAVAILABLE", "CANCELLED"):
                raise ServerUnreachableError(f"{self._address} went away while loading {model}") from error
            raise ModelLoadError(model, load_failure(error.message())) from error

    def unload(self, model: str, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """Unload a model; returns at once, in-flight requests finish (see ``index`` for the end of it)."""
        try:
            self._client.unload_model(model, headers=self._headers, client_timeout=timeout_s)
        except InferenceServerException as error:
            raise self._translate(error, f"unload {model}") from error

    def index(self, timeout_s: float = DEFAULT_TIMEOUT_S) -> list[ModelState]:
        """Return every model of the repository, and every version that was ever loaded."""
        try:
            answer = self._client.get_model_repository_index(headers=self._headers, client_timeout=timeout_s)
        except InferenceServerException as error:
            raise self._translate(error, "read the repository index") from error
        return [ModelState(entry.name, entry.version, entry.state, entry.reason) for entry in answer.models]

    def is_model_ready(self, model: str, version: str = "", timeout_s: float = DEFAULT_TIMEOUT_S) -> bool:
        """Whether a version (default: any) of a model is READY."""
        try:
            return bool(self._client.is_model_ready(model, version, client_timeout=timeout_s))
        except InferenceServerException as error:
            raise self._translate(error, f"ask for {model}") from error

    def model_config(self, model: str, timeout_s: float = DEFAULT_TIMEOUT_S) -> dict[str, Any]:
        """Return the configuration of a loaded model (its JSON form), to be edited and given to ``load``."""
        try:
            answer = self._client.get_model_config(model, as_json=True, client_timeout=timeout_s)
        except InferenceServerException as error:
            raise self._translate(error, f"read the configuration of {model}") from error
        config: dict[str, Any] = answer["config"]
        return config

    def server_metadata(self, timeout_s: float = DEFAULT_TIMEOUT_S) -> ServerMetadata:
        """Return what the server says of itself."""
        try:
            answer = self._client.get_server_metadata(client_timeout=timeout_s)
        except InferenceServerException as error:
            raise self._translate(error, "read the server's metadata") from error
        return ServerMetadata(answer.name, answer.version)

    def _translate(self, error: InferenceServerException, action: str) -> ControlError:
        reason = error.message() or str(error)
        if _is_denied(error):
            return self._denied(action)
        match _status(error):
            case "UNAVAILABLE" | "CANCELLED":
                return ServerUnreachableError(f"cannot {action}: {self._address} does not answer: {reason}")
            case "DEADLINE_EXCEEDED":
                return ControlTimeoutError(f"cannot {action}: no answer from {self._address} in time")
            case "NOT_FOUND":
                return UnknownModelError(f"cannot {action}: {reason}")
            case _:
                return ControlError(f"cannot {action}: {reason}")

    def _denied(self, action: str) -> ControlDeniedError:
        had = "another token than ours" if self._headers else "a token"
        return ControlDeniedError(f"cannot {action}: the control API of {self._address} wants {had}")


def _is_denied(error: InferenceServerException) -> bool:
    """Whether the call came without the right token; Triton says UNAVAILABLE, as for a server that is not there."""
    return "is restricted" in str(error.message())


def _status(error: InferenceServerException) -> str:
    return str(error.status() or "").removeprefix("StatusCode.")
