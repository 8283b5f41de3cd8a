"""The example of a collector: not run here, but it parses and its parts fit together."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from warmswap_ops.tracing import DEFAULT_PATH, Tracing

EXAMPLE = Path(__file__).parents[2] / "deploy/observability/otel-collector.yaml"


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    yaml: Any = importlib.import_module("yaml")  # ships no types
    loaded = yaml.safe_load(EXAMPLE.read_text())
    assert isinstance(loaded, dict)
    return loaded


@pytest.mark.parametrize("kind", ["receivers", "processors", "exporters"])
def test_every_part_is_used_and_every_part_that_is_used_is_there(config: dict[str, Any], kind: str) -> None:
    used = {name for pipeline in config["service"]["pipelines"].values() for name in pipeline[kind]}
    assert used == set(config[kind])


def test_extensions_fit(config: dict[str, Any]) -> None:
    assert set(config["service"]["extensions"]) == set(config["extensions"])


def test_memory_is_limited_first_and_batches_are_made_last(config: dict[str, Any]) -> None:
    for pipeline in config["service"]["pipelines"].values():
        assert pipeline["processors"][0] == "memory_limiter"
        assert pipeline["processors"][-1] == "batch"


def test_receiver_is_where_the_command_in_the_comment_sends_to(config: dict[str, Any]) -> None:
    url = re.search(r"--trace-url (\S+)", EXAMPLE.read_text())
    assert url is not None
    tracing = Tracing.of(url[1], None)
    assert tracing is not None
    assert urlsplit(tracing.url).path == DEFAULT_PATH  # the receiver's own
    assert config["receivers"]["otlp"]["protocols"]["http"]["endpoint"].endswith(f":{urlsplit(tracing.url).port}")
    assert "grpc" not in config["receivers"]["otlp"]["protocols"]
