"""Loads and unloads a model on a running server, one after the other; what takes time and needs no lock."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from warmswap_ops.compiling.stamp import Trust
from warmswap_ops.errors import RepositoryError
from warmswap_ops.repository import verify
from warmswap_ops.residency.background import loading_in_background
from warmswap_ops.residency.memory import stub_model
from warmswap_ops.residency.planning import ResidencyPlan

if TYPE_CHECKING:
    from warmswap_ops.control import ControlClient

UNLOAD_TIMEOUT_S: Final = 60.0
UNLOAD_POLL_S: Final = 0.02
_HOLDS_MEMORY: Final = frozenset(("READY", "UNLOADING"))


class ModelOperations:
    """What the manager does to one server."""

    def __init__(
        self,
        plan: ResidencyPlan,
        is_known: Trust,
        control: ControlClient,
        processes: Callable[[], Sequence[int]],
        load_timeout_s: float,
        config_of: Callable[[str], Mapping[str, Any] | None] = lambda model: None,
    ) -> None:
        """Prepare.

        Args:
            plan: What there is to load.
            is_known: Whether a file need not be read to know its sha256.
            control: Connection to the server; closed with this.
            processes: Returns the ids of tritonserver, first, and of its stubs.
            load_timeout_s: How long one load may take.
            config_of: Returns what replaces the ``config.pbtxt`` of a model at the time of its load.
        """
        self.processes = processes
        self._plan = plan
        self._is_known = is_known
        self._control = control
        self._load_timeout_s = load_timeout_s
        self._config_of = config_of
        self._verified: set[str] = set()

    def load(self, model: str, *, in_background: bool) -> None:
        """Load a model; returns when it is READY.

        Raises:
            ControlError: it was refused, or took too long.
            RepositoryError: its files are not those of its manifest.
        """
        self._verify(model)
        pids = self.processes()
        quietly: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if in_background and pids:
            quietly = loading_in_background(pids[0], lambda pid: stub_model(pid) == model)
        with quietly:
            self._control.load(model, self._config_of(model), timeout_s=self._load_timeout_s)

    def unload(self, model: str) -> None:
        """Unload a model; returns when its memory is free.

        Raises:
            ControlError: the server does not answer.
        """
        self._control.unload(model)
        deadline_s = time.monotonic() + UNLOAD_TIMEOUT_S
        while time.monotonic() < deadline_s:
            if not {entry.state for entry in self._control.index() if entry.name == model} & _HOLDS_MEMORY:
                return
            time.sleep(UNLOAD_POLL_S)

    def is_ready(self, model: str) -> bool:
        """Whether a model answers requests."""
        return self._control.is_model_ready(model)

    def close(self) -> None:
        """Give up the connection; what waits for an answer fails."""
        self._control.close()

    def _verify(self, model: str) -> None:
        """Compare the files with the manifest, before the first load: a start should not take time for them."""
        if model in self._verified:
            return
        versions = [version for version in self._plan.later if version.model == model]
        if not versions and model not in self._plan.stages:  # those the start has verified
            raise RepositoryError(f"model {model} was not in order when the replica started: correct it, start again")
        verify(versions, self._is_known)
        self._verified.add(model)
