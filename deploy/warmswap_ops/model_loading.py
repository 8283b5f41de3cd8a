"""Several models at a time: load them, or let them finish their last requests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from warmswap_ops.errors import ControlError, ModelLoadError, ServerUnreachableError
from warmswap_ops.replica_state import LoadTimes

if TYPE_CHECKING:
    from warmswap_ops.control import ControlClient
    from warmswap_ops.triton_process import TritonProcess

LIVENESS_INTERVAL_S: Final = 0.05
DRAIN_POLL_INTERVAL_S: Final = 0.02
_HOLDS_REQUESTS: Final = ("READY", "UNLOADING")


def load_models(
    control: ControlClient,
    groups: Sequence[tuple[str, Sequence[str]]],
    timeout_s: float,
    process: TritonProcess,
    at_once: int,
    initialized_s: Callable[[str], float | None],
    configs: Mapping[str, Mapping[str, Any]],
) -> Iterator[tuple[str, dict[str, LoadTimes]]]:
    """Load groups of models; yield each group, in order, when all of its models are loaded.

    The first failure wins, and kills the server: that ends the other loads too.

    Args:
        control: Connection to the server.
        groups: Name and models of each group; a model may need those of an earlier group to become ready.
        timeout_s: For each model.
        process: The server, which may die meanwhile.
        at_once: Models that are loaded at the same time, in the order of the groups; all of them if it is large enough.
        initialized_s: When a model's last instance was initialized, if that is known (``time.monotonic()``).
        configs: What replaces ``config.pbtxt`` of a model.

    Yields:
        Name of the group, and how long each of its models took.

    Raises:
        ControlError: a model was refused, or took longer than ``timeout_s``.
        ServerError: the server died.
    """

    def load(model: str) -> LoadTimes:
        started_s = time.monotonic()
        control.load(model, configs.get(model), timeout_s=timeout_s)
        total_ms = (time.monotonic() - started_s) * 1e3
        end_s = initialized_s(model)
        return LoadTimes(total_ms, None if end_s is None or end_s < started_s else (end_s - started_s) * 1e3)

    pool = ThreadPoolExecutor(at_once, thread_name_prefix="load")
    try:
        futures = {model: pool.submit(load, model) for _, models in groups for model in models}
        running = set(futures.values())
        for name, models in groups:
            while not all(futures[model].done() for model in models):
                done, running = wait(running, timeout=LIVENESS_INTERVAL_S, return_when=FIRST_COMPLETED)
                for future in done:
                    _raise_failure(future, process)
                process.check_alive()
            yield name, {model: futures[model].result() for model in models}
    except BaseException:
        process.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def finish_requests(
    control: ControlClient, models: Sequence[str], deadline_s: float, is_cut_short: Callable[[], bool]
) -> bool:
    """Unload models and wait until their last request is answered.

    Args:
        control: Connection to the server.
        models: Models that take nothing new from now on.
        deadline_s: In ``time.monotonic()`` seconds.
        is_cut_short: Asked while waiting.

    Returns:
        Whether all requests finished in time.
    """
    try:
        for model in models:
            control.unload(model)
        while any(state.name in models and state.state in _HOLDS_REQUESTS for state in control.index()):
            if is_cut_short() or time.monotonic() > deadline_s:
                return False
            time.sleep(DRAIN_POLL_INTERVAL_S)
    except ControlError:  # killed meanwhile: there is nothing to wait for
        return False
    return True


def refuse_models(control: ControlClient, models: Sequence[str], config: Callable[[str], Path], reason: str) -> None:
    """Let the repository index of an empty server give a reason for pipelines that will not be loaded.

    Only for pipelines of this project: another one would not refuse, and become ready.

    Args:
        control: Connection to the server.
        models: The pipelines.
        config: Returns a pipeline's ``config.pbtxt``.
        reason: What the index is to say.

    Raises:
        OpsError: the server or a configuration cannot be asked.
    """
    from warmswap_ops.model_config import knows_refusal, read_model_config, with_refusal

    for model in models:
        path = config(model)
        if knows_refusal(path.parents[1] if path.parent.name == "configs" else path.parent):
            with suppress(ModelLoadError):
                control.load(model, with_refusal(read_model_config(path), reason))


def _raise_failure(future: Future[LoadTimes], process: TritonProcess) -> None:
    error = future.exception()
    if isinstance(error, ServerUnreachableError):  # the reason is in the server's log
        process.wait(1.0)
        process.check_alive()
    if error is not None:
        raise error
