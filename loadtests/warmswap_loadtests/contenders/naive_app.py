"""The common pattern: the process is healthy as soon as it lives, and the first request loads the model."""

from __future__ import annotations

import threading
from typing import Annotated

from fastapi import FastAPI, File, Response

from warmswap_loadtests.contenders.baseline_model import BaselineModel

app = FastAPI()
_model: BaselineModel | None = None
_lock = threading.Lock()


def get_model() -> BaselineModel:
    """Return the model; the first call loads it, the others wait."""
    global _model
    if _model is None:
        with _lock:
            if _model is None:
                _model = BaselineModel()
    return _model


@app.get("/health")
async def health() -> dict[str, str]:
    """Say yes."""
    return {"status": "ok"}


@app.post("/swap")
def swap(source: Annotated[bytes, File()], target: Annotated[bytes, File()]) -> Response:
    """Swap; FastAPI runs this in its pool of threads."""
    return Response(get_model().swap(source, target), media_type="image/jpeg")
