from __future__ import annotations

import inspect
import subprocess
import sys

import warmswap_client
from warmswap_client import errors

HEAVY = ("numpy", "grpc", "tritonclient", "gevent", "geventhttpclient", "aiohttp")


def loaded_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*(name for name in {HEAVY} if name in sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(answer.stdout.split())


def test_import_loads_no_heavy_library() -> None:
    assert loaded_after("import warmswap_client") == set()


def test_grpc_client_loads_no_http_library() -> None:
    loaded = loaded_after("import warmswap_client; warmswap_client.FaceSwapClient('grpc://127.0.0.1:1')")
    assert loaded == {"numpy", "grpc", "tritonclient"}


def test_http_client_loads_no_grpc_library() -> None:
    loaded = loaded_after("import warmswap_client; warmswap_client.FaceSwapClient('http://127.0.0.1:1')")
    assert loaded == {"numpy", "tritonclient", "gevent", "geventhttpclient"}


def test_every_error_is_public() -> None:
    names = {name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)}
    assert names <= set(warmswap_client.__all__)
    assert sorted(warmswap_client.__all__) == sorted(set(warmswap_client.__all__))
