"""Texts as the ring stores them: bounded, in UTF-8, and still telling one from another."""

from __future__ import annotations

import hashlib

from apportion.client.counting import count
from apportion.client.layout import REQUEST_ID_TEXT_BYTES, WORD_TEXT_BYTES

_HASHED = 1 << 8
_DIGEST_DIGITS = 48
_WORD_DIGEST_DIGITS = 16
_TRACEPARENT_LENGTH = 55


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return text.encode("utf-8", "replace")


def request_id_field(request_id: object) -> tuple[int, bytes]:
    """The request id's first two bytes as a number, and its text; 0 and nothing for none.

    A string, an int or a UUID. Anything else is ignored and counted: its text could cost a
    device synchronisation.
    """
    if type(request_id) is not str:
        if type(request_id) is int or type(request_id).__name__ == "UUID":
            request_id = str(request_id)
        elif isinstance(request_id, str):
            request_id = str.__str__(request_id)
        else:
            if request_id is not None:
                count("request_id_ignored")
            return 0, b""
    text = _utf8(request_id)
    length = len(text)
    if length <= REQUEST_ID_TEXT_BYTES:
        return length, text
    hashed = b"sha256:" + hashlib.sha256(text).hexdigest()[:_DIGEST_DIGITS].encode()
    return len(hashed) | _HASHED, hashed


def word_text(text: str) -> bytes:
    """UTF-8 of at most 120 bytes; of a longer text, its beginning, `~` and a digest's 16 digits."""
    whole = _utf8(text)
    if len(whole) <= WORD_TEXT_BYTES:
        return whole
    digest = hashlib.sha256(whole).hexdigest()[:_WORD_DIGEST_DIGITS].encode()
    beginning = whole[: WORD_TEXT_BYTES - _WORD_DIGEST_DIGITS - 1]
    # A character cut in two is left out.
    return beginning.decode("utf-8", "ignore").encode() + b"~" + digest


def trace_field(traceparent: object) -> bytes:
    """Trace id (16 bytes) and parent id (8) of a W3C `traceparent`; empty where it is malformed."""
    if isinstance(traceparent, str) and len(traceparent) >= _TRACEPARENT_LENGTH:
        parts = traceparent.split("-")
        if len(parts) >= 4 and [len(part) for part in parts[:4]] == [2, 32, 16, 2]:
            try:
                trace, parent = bytes.fromhex(parts[1]), bytes.fromhex(parts[2])
            except ValueError:
                trace = parent = b""
            # fromhex skips blanks, so the lengths are looked at again. Version ff is forbidden,
            # and version 00 has exactly four parts.
            known = parts[0] != "ff" and (parts[0] != "00" or len(parts) == 4)
            if known and len(trace) == 16 and len(parent) == 8 and any(trace) and any(parent):
                return trace + parent
    count("traceparent_ignored")
    return b""
