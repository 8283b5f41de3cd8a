"""InsightFace, if it is installed, without what it prints and warns."""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from types import ModuleType

from warmswap_loadtests.errors import BenchError

INSTALL = "sh deploy/setup.sh .venv client,server,loadtests,insightface,dev"


def import_insightface(module: str) -> ModuleType:
    """Import a module of insightface.

    Raises:
        BenchError: it is not installed; the text says how to install it.
    """
    with quiet():
        try:
            return importlib.import_module(f"insightface.{module}")
        except ImportError as error:
            raise BenchError(
                f"the baseline is insightface itself, which is not installed here ({error}): run `{INSTALL}`, or "
                "pip install 'warmswap[insightface]' (never beside onnxruntime-gpu)"
            ) from error


def insightface_version() -> str:
    """Return the version that is installed."""
    return version("insightface")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop what is printed and warned; for the whole process, so not for use in several threads."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
