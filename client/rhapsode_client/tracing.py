"""W3C trace context: which trace a call is part of."""

import re
import sys
from typing import Any

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def trace_metadata(trace: str = "") -> tuple[tuple[str, str], ...]:
    """The headers of `trace`, a `traceparent`; empty: of OpenTelemetry's present span if the caller uses it."""
    if trace:
        if not _TRACEPARENT.fullmatch(trace):
            raise ValueError(f"trace: must be a W3C traceparent, 00-TRACE-PARENT-FLAGS in hexadecimal, not {trace!r}")
        return (("traceparent", trace),)
    api = sys.modules.get("opentelemetry.trace")
    return _headers(api.get_current_span().get_span_context()) if api else ()


def _headers(context: Any) -> tuple[tuple[str, str], ...]:
    """Those of OpenTelemetry's SpanContext; it is no dependency, so its types are not known here."""
    if not context.is_valid:
        return ()
    parent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    state = context.trace_state.to_header()
    return (("traceparent", parent), *((("tracestate", state),) if state else ()))
