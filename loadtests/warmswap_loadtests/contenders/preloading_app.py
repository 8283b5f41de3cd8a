"""The best common pattern: the model is loaded and has answered once before the server says that it is ready.

The port opens at once, so liveness does not depend on the load. Two swaps run side by side, as many as ``face_swap``
has instances; others wait in order instead of taking the cores from each other.
"""

from __future__ import annotations

import asyncio
import os
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Final

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, File, HTTPException, Response

from warmswap_loadtests.contenders.baseline_model import BaselineModel

SWAPS_AT_ONCE: Final = 2


class State:
    """The model, once it is ready."""

    model: BaselineModel | None = None
    limiter: CapacityLimiter


state = State()


def load() -> BaselineModel:
    """Load the model and run it once."""
    model = BaselineModel()
    model.warm_up()
    return model


async def preload() -> None:
    """Make the server ready; a server that cannot be ready ends, so that the orchestrator sees it."""
    try:
        state.model = await to_thread.run_sync(load)
    except Exception:
        traceback.print_exc()
        os._exit(1)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Begin to load when the server starts."""
    state.limiter = CapacityLimiter(SWAPS_AT_ONCE)
    loading = asyncio.create_task(preload())
    yield
    loading.cancel()


app = FastAPI(lifespan=lifespan)


def ready_model() -> BaselineModel:
    """Return the model.

    Raises:
        HTTPException: it is not ready.
    """
    if state.model is None:
        raise HTTPException(503, "the model is being loaded")
    return state.model


@app.get("/healthz")
async def healthz() -> dict[str, str]:
    """Say that the process lives."""
    return {"status": "ok"}


@app.get("/readyz")
async def readyz() -> dict[str, str]:
    """Say whether requests are welcome."""
    ready_model()
    return {"status": "ready"}


@app.post("/warmup")
async def warmup() -> dict[str, str]:
    """Run the model once more."""
    await to_thread.run_sync(ready_model().warm_up, limiter=state.limiter)
    return {"status": "warm"}


@app.post("/swap")
async def swap(source: Annotated[bytes, File()], target: Annotated[bytes, File()]) -> Response:
    """Swap."""
    image = await to_thread.run_sync(ready_model().swap, source, target, limiter=state.limiter)
    return Response(image, media_type="image/jpeg")
