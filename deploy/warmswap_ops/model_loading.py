"""Several models at a time: load them, or let them finish their last requests."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Final

from warmswap_ops.errors import ControlError, ServerUnreachableError
from warmswap_ops.phases import Stopwatch

if TYPE_CHECKING:
    from warmswap_ops.control import ControlClient
    from warmswap_ops.triton_process import TritonProcess

LIVENESS_INTERVAL_S: Final = 0.05
DRAIN_POLL_INTERVAL_S: Final = 0.02
_HOLDS_REQUESTS: Final = ("READY", "UNLOADING")


def load_models(
    control: ControlClient, models: Sequence[str], timeout_s: float, process: TritonProcess, at_once: int
) -> dict[str, float]:
    """Load models, ``at_once`` of them at a time; return the milliseconds that each took.

    The first failure wins, and kills the server: that ends the other loads too.

    Raises:
        ControlError: a model was refused, or took longer than ``timeout_s``.
        ServerError: the server died.
    """

    def load(model: str) -> float:
        stopwatch = Stopwatch()
        control.load(model, timeout_s=timeout_s)
        return stopwatch.total_ms()

    if not models:
        return {}
    pool = ThreadPoolExecutor(at_once, thread_name_prefix="load")
    try:
        futures: dict[Future[float], str] = {pool.submit(load, model): model for model in models}
        pending = set(futures)
        while pending:
            done, pending = wait(pending, timeout=LIVENESS_INTERVAL_S, return_when=FIRST_COMPLETED)
            for future in done:
                _raise_failure(future, process)
            process.check_alive()
        return {model: future.result() for future, model in futures.items()}
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


def _raise_failure(future: Future[float], process: TritonProcess) -> None:
    error = future.exception()
    if isinstance(error, ServerUnreachableError):  # the reason is in the server's log
        process.wait(1.0)
        process.check_alive()
    if error is not None:
        raise error
