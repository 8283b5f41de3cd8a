"""Under which name a request stands in the logs of both sides."""

from __future__ import annotations

from uuid import uuid4

from warmswap_ensemble.contract import REQUEST_ID


def choose_request_id(given: str | None) -> str:
    """Return the id of a request: the caller's, else 32 random hexadecimal digits.

    Raises:
        ValueError: the caller's has characters, or a length, that do not fit into every log.
    """
    if given is None:
        return uuid4().hex
    if not isinstance(given, str) or REQUEST_ID.fullmatch(given) is None:
        shown = repr(given)
        shown = shown if len(shown) <= 60 else f"{shown[:60]}... ({len(shown)} characters)"
        raise ValueError(f"request_id must be 1 to 128 of the characters A-Z a-z 0-9 . _ : -, got {shown}")
    return given
