"""One real, tiny swap: does this server really swap faces, and how fast?

The shipped pictures (160 pixels, a few kB) are cut from the demo portraits, see ``examples/README.md``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files

from warmswap_client.client import FaceSwapClient
from warmswap_client.errors import ProbeFailedError, ProbeTooSlowError
from warmswap_client.results import SwapResult

PICTURES = files("warmswap_client") / "probe_pictures"


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """A probe that was answered as it should be.

    Attributes:
        url: Who answered.
        latency_ms: From the request to the answer, retries included.
        swapped: How many faces were swapped.
        similarity_before: Of the target's face to the source's, -1 to 1.
        similarity_after: The same after the swap; larger.
        models: Version of each model that took part.
    """

    url: str
    latency_ms: float
    swapped: int
    similarity_before: float
    similarity_after: float
    models: Mapping[str, str]


def probe(
    client: FaceSwapClient, max_latency_s: float | None = None, clock: Callable[[], float] = time.monotonic
) -> ProbeResult:
    """Swap once and judge the answer.

    Args:
        client: Who to ask; its deadline counts.
        max_latency_s: Slower is a failure; ``None`` = any latency within the deadline.
        clock: Monotonic seconds.

    Raises:
        ProbeFailedError: the answer came, but no face was swapped or it is no more similar to the source.
        ProbeTooSlowError: the answer is right, but came too late.
        WarmswapError: there was no answer.
    """
    source, target = ((PICTURES / name).read_bytes() for name in ("source.jpg", "target.jpg"))
    begin_s = clock()
    result = client.swap(source, target)
    latency_s = clock() - begin_s
    before, after, swapped = _judge(result, client.url)
    if max_latency_s is not None and latency_s > max_latency_s:
        raise ProbeTooSlowError(
            f"{latency_s:.3f} s, more than the {max_latency_s:g} s of --max-latency", url=client.url
        )
    return ProbeResult(client.url, latency_s * 1e3, swapped, before, after, dict(result.models))


def _judge(result: SwapResult, url: str) -> tuple[float, float, int]:
    swapped = [face for face in result.faces if face.swapped]
    if not swapped:
        raise ProbeFailedError(f"no face was swapped, of {len(result.faces)} that were found", url=url)
    before, after = swapped[0].similarity_before, swapped[0].similarity_after
    if before is None or after is None:
        raise ProbeFailedError("the server did not measure the similarity to the source", url=url)
    if not after > before:  # NaN is no rise either
        raise ProbeFailedError(f"the similarity to the source did not rise: {before:.3f} -> {after:.3f}", url=url)
    return before, after, len(swapped)
