"""The replica's side of a rollout: a small model that the tool loads, and calls over the port that is there anyway.

One JSON object in, one out; files come in parts beside it. It is called like any model, so it asks for the control
token itself. The work is in ``staging``, ``state_file`` and ``scratch``; nothing here waits for anything long.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from warmswap_ensemble.contract import model_spec
from warmswap_ensemble.manifest import version_dirs
from warmswap_ensemble.routes import (
    CONTROL_DIGEST_VARIABLE,
    OBSERVATIONS_SUFFIX,
    PYTHON_VARIABLE,
    ROLLOUT_FOLDER_VARIABLE,
    SERVED_REPOSITORY_VARIABLE,
    RoutesError,
    parse_routes,
)
from warmswap_ops.config_text import CONFIG_NAME, parse_default_filename, read_config
from warmswap_ops.errors import MachineError, OpsError, RepositoryError, RolloutError, UsageError
from warmswap_ops.repository import COMPILED_SUFFIX
from warmswap_ops.residency.background import loading_in_background, may_reschedule, set_background
from warmswap_ops.residency.memory import stub_model
from warmswap_ops.rollout import staging
from warmswap_ops.rollout.processes import stubs_of
from warmswap_ops.rollout.record import Phase, parse_record
from warmswap_ops.rollout.state_file import StateChangedError, append_history, read_history, replace_routes, routes_of

DENIED: Final = "denied"
CHANGED: Final = "changed"
FAILED: Final = "failed"
MAX_OBSERVED_BYTES: Final = 4 << 20
"""In one answer."""
LONGEST_LOAD_S: Final = 60.0
"""A load on cores that are always busy takes its share after this; nobody waits for it, as for one on demand.

Processes of one model start one after the other, so that the last may come long after the first."""


class Agent:
    """Answers calls of the tool."""

    def __init__(self, environ: Mapping[str, str], server_pid: int) -> None:
        """Find out what is served.

        Raises:
            MachineError: the server was not started by ``warmswap serve``.
        """
        try:
            self._repository = Path(environ[SERVED_REPOSITORY_VARIABLE])
            self._folder = Path(environ[ROLLOUT_FOLDER_VARIABLE])
            self._digest = environ[CONTROL_DIGEST_VARIABLE]
            self._python = environ[PYTHON_VARIABLE]
        except KeyError as error:
            raise MachineError(f"rollouts need a server that warmswap serve has started: {error} is not set") from None
        self._server_pid = server_pid
        self._proofs: dict[str, subprocess.Popen[bytes]] = {}
        self._gentle: contextlib.ExitStack | None = None

    def call(self, question: Mapping[str, Any], data: bytes) -> dict[str, Any]:
        """Answer one call; every refusal is an answer too: ``{"error": kind, "message": sentence}``."""
        if self._digest:
            digest = hashlib.sha256(str(question.get("token", "")).encode()).hexdigest()
            if not hmac.compare_digest(digest, self._digest):
                return {"error": DENIED, "message": "the rollout agent wants the control token of this replica"}
        operation = getattr(self, f"do_{question.get('do')}", None)
        if operation is None:
            return {"error": FAILED, "message": f"the rollout agent cannot do {question.get('do')!r}"}
        arguments = {name: value for name, value in question.items() if name not in ("do", "token")}
        try:
            answer: dict[str, Any] = operation(data, **arguments)
        except StateChangedError as error:
            return {"error": CHANGED, "message": str(error)}
        except OpsError as error:
            return {"error": FAILED, "message": str(error), "exit_code": error.exit_code}
        except OSError as error:
            return {"error": FAILED, "message": f"{error.filename or self._repository}: {error.strerror or error}"}
        except (AttributeError, TypeError, ValueError, KeyError, RoutesError) as error:
            return {"error": FAILED, "message": f"the rollout agent does not understand the call: {error}"}
        return answer

    def close(self) -> None:
        """End what runs."""
        self.do_gently(b"", models=[])
        for rollout in list(self._proofs):
            self._end_proof(rollout)

    def do_hello(self, data: bytes, models: list[str]) -> dict[str, Any]:
        """Tell what is served, and whether a rollout is possible."""
        configs = [(model, self._repository / model / CONFIG_NAME) for model in models]
        files = [(model, parse_default_filename(read_config(path))) for model, path in configs if path.is_file()]
        compiled = [model for model, file in files if file.endswith(COMPILED_SUFFIX)]
        return {
            "repository": str(self._repository),
            "writable": os.access(self._repository, os.W_OK),
            "compiled": compiled,
            "versions": {
                model: [int(folder.name) for folder in version_dirs(self._repository / model)]
                for model in models
                if model_spec(model)
            },
            "now_s": time.time(),
            "server_pid": self._server_pid,
        }

    def do_state(self, data: bytes) -> dict[str, Any]:
        """Return the state of the repository."""
        routes = routes_of(self._repository)
        return {
            "routes": routes.as_json(),
            "is_watched": bool(routes.rollout and routes.rollout.is_watched()),
            "lease_left_s": float(routes.record.get("lease_until_s", 0.0)) - time.time(),
            "now_s": time.time(),
        }

    def do_change(
        self, data: bytes, routes: dict[str, Any], expected: int, lease_s: float, watch_s: float
    ) -> dict[str, Any]:
        """Replace the state; times are this machine's.

        Args:
            data: Nothing.
            routes: The new state.
            expected: Generation that must be there.
            lease_s: How long nobody else may lead the rollout.
            watch_s: After that time without another change, the pipelines go back to the stable versions.
        """
        changed = parse_routes(routes, "the call")
        now_s = time.time()
        if changed.record:
            changed = replace(changed, record={**changed.record, "lease_until_s": now_s + lease_s})
        if changed.rollout is not None:
            changed = replace(changed, rollout=replace(changed.rollout, expires_s=now_s + watch_s))
        replace_routes(self._repository, changed, expected)
        return {"now_s": now_s}

    def do_upload(self, data: bytes, rollout: str, model: str, name: str, offset: int) -> dict[str, Any]:
        """Write a part of a candidate's file."""
        self._must_be_brought(rollout)
        try:
            staging.write_part(self._repository, rollout, model, name, offset, data)
        except OSError:
            staging.discard(
                self._repository, rollout, model, None
            )  # a full disk would keep even the state from changing
            raise
        return {}

    def do_settle(self, data: bytes, rollout: str, model: str, version: int, files: dict[str, str]) -> dict[str, Any]:
        """Verify a candidate and give it its number."""
        self._must_be_brought(rollout)
        staging.settle(self._repository, rollout, model, version, files)
        return {}

    def _must_be_brought(self, rollout: str) -> None:
        """Refuse what a tool brings that does not know yet that its rollout was aborted: nobody would remove it."""
        there = parse_record(routes_of(self._repository).record)
        if there is None or there.id != rollout or there.phase is not Phase.BEGUN:
            now = "there is none" if there is None else f"rollout {there.id} of {there.who} is {there.phase}"
            raise RolloutError(f"rollout {rollout} is not being staged: {now}")

    def do_discard(self, data: bytes, rollout: str, model: str, version: int | None) -> dict[str, Any]:
        """Remove a candidate; without a version, only what was made of it to be tried."""
        routes = routes_of(self._repository)
        if version is not None and (version in routes.needed(model) or model not in routes.stable):
            raise RepositoryError(f"{model} {version} is in use, or nothing says which version is")
        staging.discard(self._repository, rollout, model, version)
        staging.remove_candidate_model(self._repository, model)
        return {}

    def do_make_candidate(self, data: bytes, pipeline: str, version: int) -> dict[str, Any]:
        """Make a model of a candidate of a pipeline."""
        staging.make_candidate_model(self._repository, pipeline, version)
        return {}

    def do_prove(
        self, data: bytes, rollout: str, versions: dict[str, list[int]], limits: dict[str, float]
    ) -> dict[str, Any]:
        """Begin to try candidates in a Triton of their own; ask ``proved`` for the outcome."""
        from warmswap_ops.rollout.scratch import start_proof

        self._end_proof(rollout)
        pairs = {model: (stable, candidate) for model, (stable, candidate) in versions.items()}
        outcome = self._folder / f"{staging.checked_name(rollout)}.proof"
        self._proofs[rollout] = start_proof(self._python, self._repository, outcome, pairs, limits)
        return {}

    def do_proved(self, data: bytes, rollout: str) -> dict[str, Any]:
        """Tell how a trial goes."""
        from warmswap_ops.rollout.scratch import read_proof

        process = self._proofs.get(rollout)
        if process is None:
            raise UsageError(f"rollout {rollout} has no trial here")
        code = process.poll()
        if code is None:
            return {"done": False}
        return {"done": True, **read_proof(self._folder / f"{rollout}.proof", code)}

    def do_gently(self, data: bytes, models: list[str]) -> dict[str, Any]:
        """Let new processes of these models load in the background, until called with none."""
        if self._gentle is not None:
            self._gentle.close()
            self._gentle = None
        if models and may_reschedule():
            self._gentle = contextlib.ExitStack()
            loading = loading_in_background(
                self._server_pid,
                lambda pid: stub_model(pid) in models,
                watch_s=LONGEST_LOAD_S,
                longest_s=LONGEST_LOAD_S,
            )
            self._gentle.enter_context(loading)
        return {}

    def do_background(self, data: bytes, versions: dict[str, int], on: bool) -> dict[str, Any]:
        """Let the processes of versions run in CPU time that nobody else wants, or as all others do."""
        pids = [pid for model, version in versions.items() for pid in stubs_of(self._server_pid, model, version)]
        if not may_reschedule():
            return {"processes": 0}
        for pid in pids:
            set_background(pid, on=on)
        return {"processes": len(pids)}

    def do_alive(self, data: bytes, versions: dict[str, int]) -> dict[str, Any]:
        """Tell how many processes serve versions, and how much memory the server and all its processes take."""
        from warmswap_ops.residency.memory import pss_mb
        from warmswap_ops.rollout.processes import all_processes

        counts = {model: len(stubs_of(self._server_pid, model, version)) for model, version in versions.items()}
        return {"processes": counts, "memory_mb": pss_mb(all_processes(self._server_pid))}

    def do_observe(self, data: bytes, rollout: str, cursors: dict[str, int]) -> dict[str, Any]:
        """Return what the pipelines have observed since the cursors of the last call.

        A launcher that starts anew has another folder. In a container its processes often get the numbers that others
        had before, so the cursors are those of one run of the launcher.
        """
        lines: list[str] = []
        left = MAX_OBSERVED_BYTES
        for path in sorted(self._folder.glob(f"{staging.checked_name(rollout)}.*{OBSERVATIONS_SUFFIX}")):
            cursor = f"{self._folder.name}/{path.name}"
            offset = int(cursors.get(cursor, 0))
            with path.open("rb") as file:
                file.seek(offset)
                block = file.read(left)
            block = block[: block.rfind(b"\n") + 1]
            lines += block.decode(errors="replace").splitlines()
            cursors[cursor] = offset + len(block)
            left -= len(block)
        return {"lines": lines, "cursors": cursors, "now_s": time.time(), "run": self._folder.name}

    def do_remember(self, data: bytes, entry: dict[str, Any]) -> dict[str, Any]:
        """Append to the history."""
        append_history(self._repository, entry)
        return {}

    def do_history(self, data: bytes, last: int) -> dict[str, Any]:
        """Return the last entries of the history."""
        return {"entries": read_history(self._repository)[-last:]}

    def do_forget(self, data: bytes, rollout: str) -> dict[str, Any]:
        """Remove what was observed of a rollout, and end its trial."""
        self._end_proof(rollout)
        for path in self._folder.glob(f"{staging.checked_name(rollout)}.*"):
            path.unlink(missing_ok=True)
        return {}

    def _end_proof(self, rollout: str) -> None:
        process = self._proofs.pop(rollout, None)
        if process is not None and process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
