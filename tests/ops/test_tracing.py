"""Options of tracing: what cannot be is a usage error, before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ops.serve_process import ServeProcess
from warmswap_ops.errors import UsageError
from warmswap_ops.tracing import DEFAULT_RATE, Tracing


def test_no_url_no_traces() -> None:
    assert Tracing.of(None, None) is None


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://collector:4318", "http://collector:4318/v1/traces"),
        ("http://collector:4318/", "http://collector:4318/v1/traces"),
        ("http://collector/v1/traces", "http://collector/v1/traces"),
        ("http://[::1]:4318/otlp/v1/traces", "http://[::1]:4318/otlp/v1/traces"),
    ],
)
def test_urls(url: str, expected: str) -> None:
    assert Tracing.of(url, None) == Tracing(expected, DEFAULT_RATE)


@pytest.mark.parametrize(
    ("url", "rate", "words"),
    [
        pytest.param(None, 10, "--trace-rate needs --trace-url", id="rate alone"),
        pytest.param("", None, "must begin with http://", id="empty"),
        pytest.param("collector:4318", None, "must begin with http://", id="no scheme"),
        pytest.param("https://collector:4318", None, "must begin with http://", id="https"),
        pytest.param("grpc://collector:4317", None, "must begin with http://", id="gRPC"),
        pytest.param("http://", None, "no host", id="no host"),
        pytest.param("http://:4318", None, "no host", id="port alone"),
        pytest.param("http://collector:0", None, "no host or port", id="port 0"),
        pytest.param("http://collector:99999", None, "Port out of range", id="port"),
        pytest.param("http://collector:otlp", None, "Port could not be cast", id="port by name"),
        pytest.param("http://[::1", None, "Invalid IPv6", id="IPv6"),
        pytest.param("http://me:secret@collector", None, "host, port and path only", id="password"),
        pytest.param("http://collector/?a=b", None, "host, port and path only", id="query"),
        pytest.param("http://collector/ --allow-http=false", None, "without spaces", id="space"),
        pytest.param("http://collector/\nx", None, "without spaces", id="newline"),
        pytest.param("http://collectör", None, "must be ASCII", id="not ASCII"),
        pytest.param("http://collector", 0, "must be 1 to", id="rate 0"),
        pytest.param("http://collector", -1, "must be 1 to", id="rate below 0"),
        pytest.param("http://collector", 2**32, "must be 1 to", id="rate too large"),
    ],
)
def test_bad_options(url: str | None, rate: int | None, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        Tracing.of(url, rate)
    assert caught.value.exit_code == 2
    assert "secret" not in str(caught.value)


def test_flags_say_who_sends_and_never_send_tensors() -> None:
    flags = Tracing("http://collector:4318/v1/traces", 7).flags()
    assert {flag.partition("=")[0] for flag in flags} == {"--trace-config"}
    values = [flag.removeprefix("--trace-config=") for flag in flags]
    assert {"mode=opentelemetry", "level=TIMESTAMPS", "rate=7"} <= set(values)
    assert "opentelemetry,url=http://collector:4318/v1/traces" in values
    resource = [value.split("resource=")[1].split("=")[0] for value in values if "resource=" in value]
    assert resource == ["service.name", "service.version", "service.instance.id"]


def test_time_out_of_the_exporter_is_short_unless_it_was_set() -> None:
    tracing = Tracing("http://collector:4318/v1/traces")
    assert tracing.environment({}) == {"OTEL_EXPORTER_OTLP_TIMEOUT": "2s"}
    assert tracing.environment({"OTEL_EXPORTER_OTLP_TIMEOUT": "9s"}) == {}


@pytest.mark.parametrize(
    "options",
    [("--trace-url=collector:4318",), ("--trace-rate=5",), ("--trace-url=http://c", "--trace-rate=0")],
)
def test_command_refuses_them_at_once(options: tuple[str, ...], tmp_path: Path) -> None:
    with ServeProcess(tmp_path / "repository", *options) as serve:
        assert serve.wait() == 2
        assert serve.stderr().startswith("error: --trace-")


@pytest.mark.parametrize("option", ["--trace-rate=often", "--log-format=xml", "--request-log=some"])
def test_command_refuses_what_is_no_number_or_choice(option: str, tmp_path: Path) -> None:
    with ServeProcess(tmp_path / "repository", option) as serve:
        assert serve.wait() == 2
        assert option.split("=")[0] in serve.stderr()
