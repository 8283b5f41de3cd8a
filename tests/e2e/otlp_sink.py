"""A collector that keeps what it is sent: OTLP over HTTP, in JSON as Triton sends it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Span:
    """One span.

    Attributes:
        trace_id: 32 hexadecimal digits.
        span_id: 16 of them.
        parent_id: The span around it, empty for the outermost.
        name: What was done: a model, ``compute``, or ``InferRequest``.
        attributes: ``triton.request_id`` and others.
        resource: Who did it: ``service.name`` and others.
        start_ns: Since 1970.
        end_ns: Since 1970.
    """

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    attributes: dict[str, Any]
    resource: dict[str, Any]
    start_ns: int
    end_ns: int


class OtlpSink:
    """The collector, on a free loopback port, until the end of the ``with`` block."""

    def __init__(self) -> None:
        self._spans: list[Span] = []
        self._changed = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="otlp-sink")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1/traces"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def spans(self) -> list[Span]:
        with self._changed:
            return list(self._spans)

    def wait_for(self, wanted: Callable[[list[Span]], Any]) -> Any:
        """Wait until the spans so far are what is wanted; return what ``wanted`` makes of them."""
        with self._changed:
            found = self._changed.wait_for(lambda: wanted(self._spans), WAIT_S)
            assert found, [(span.name, span.attributes) for span in self._spans]
            return found

    def trace_of(self, request_id: str) -> list[Span]:
        """Wait for the outermost span of a request, which is the last to end, and return its whole trace."""
        return list(self.wait_for(lambda spans: _complete_trace(spans, request_id)))

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        sink = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                is_traces = self.path == "/v1/traces"
                if is_traces:
                    with sink._changed:
                        sink._spans.extend(read_spans(json.loads(body)))
                        sink._changed.notify_all()
                self.send_response(200 if is_traces else 404)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        return Handler


def read_spans(request: dict[str, Any]) -> list[Span]:
    """Read an ``ExportTraceServiceRequest``."""
    return [
        Span(
            trace_id=span["traceId"],
            span_id=span["spanId"],
            parent_id=span.get("parentSpanId", ""),
            name=span["name"],
            attributes=_values(span.get("attributes", [])),
            resource=_values(of_resource["resource"]["attributes"]),
            start_ns=int(span["startTimeUnixNano"]),
            end_ns=int(span["endTimeUnixNano"]),
        )
        for of_resource in request["resourceSpans"]
        for of_scope in of_resource["scopeSpans"]
        for span in of_scope["spans"]
    ]


def _values(attributes: list[dict[str, Any]]) -> dict[str, Any]:
    return {attribute["key"]: next(iter(attribute["value"].values())) for attribute in attributes}


def _complete_trace(spans: list[Span], request_id: str) -> list[Span]:
    traces = {
        span.trace_id
        for span in spans
        if span.attributes.get("triton.request_id") == request_id and span.name in ("face_swap", "face_analysis")
    }
    assert len(traces) <= 1, "one request, one trace"
    trace = [span for span in spans if span.trace_id in traces]
    return trace if any(span.name == "InferRequest" for span in trace) else []
