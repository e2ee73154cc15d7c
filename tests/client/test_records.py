"""The short forms of records and open slots, held against the layout."""

from __future__ import annotations

import struct

import pytest

from apportion.client import layout, records

OPEN_FIELDS = {
    "OPEN": ("number", "parent", "packed", "words", "step"),
    "OPEN_STEP": ("number", "packed", "step"),
    "OPEN_REQUEST": ("number", "packed", "words", "step"),
}
RECORD_FIELDS = {
    "PLAIN": ("number", "packed", "start_ns", "end_ns", "step"),
    "PART": ("number", "parent", "packed", "start_ns", "end_ns", "step"),
    "REQUEST": (
        *("number", "packed", "start_ns", "scheduled_ns", "first_token_ns", "end_ns", "step"),
        *("input_tokens", "cached_input_tokens", "output_tokens"),
    ),
    "RECORD": (
        *("number", "parent", "packed", "arrival_ns", "start_ns", "scheduled_ns"),
        *("first_token_ns", "end_ns", "step", *layout.COUNTERS),
    ),
}
ABSENT = records.ABSENT_BYTES


def test_iteration_form() -> None:
    """An iteration's fields lie where the layout has them; the other counters are absent."""
    buffer = bytearray(b"\xaa" * layout.RECORD_PAYLOAD.size)
    fields = (1, 2, 3, 4, 5, 6, ABSENT, 7, ABSENT, 8, 9, ABSENT, 10, 77)
    assert records.ITERATION.size == layout.RECORD_PAYLOAD.size
    records.ITERATION.pack_into(buffer, 0, *fields)
    found = _fields(bytes(buffer), layout.RECORD_FIELDS)
    names = ("number", "packed", "start_ns", "end_ns", "step", "input_tokens", "output_tokens")
    assert [found.pop(name) for name in (*names, "samples", "micro_batches", "engine")] == [
        *range(1, 11)
    ]
    assert found.pop("thread_id") == 77
    absent = ("cached_input_tokens", "tokens", "preemptions")
    assert [found.pop(name) for name in absent] == [layout.ABSENT] * 3
    assert not any(any(value) if isinstance(value, bytes) else value for value in found.values())


REST: dict[str, tuple[object, ...]] = {
    "REQUEST": (records.OTHER_COUNTERS, 5 | 6 << 32, 77, 2, b"id"),
    "RECORD": (5 | 6 << 32, 7, 8, b"t" * 16 + b"p" * 8, 77, 2, b"id"),
}


def _fields(raw: bytes, fields: tuple[tuple[str, int, str], ...]) -> dict[str, object]:
    return {
        name: struct.unpack_from(f"<{code}", raw, offset - 8)[0]
        for name, offset, code in fields
        if offset
    }


@pytest.mark.parametrize("form", OPEN_FIELDS)
def test_open_slot_forms(form: str) -> None:
    """Every form of an open slot puts each word where the layout has it, and zeroes the rest."""
    names = OPEN_FIELDS[form]
    values = {name: 100 + at for at, name in enumerate(names)}
    buffer = bytearray(b"\xaa" * layout.OPEN_SLOT_TAIL.size)

    getattr(records, form).pack_into(buffer, 0, *values.values())

    zeroes = {name: 0 for name, offset, _ in layout.OPEN_SLOT_FIELDS if offset}
    assert {**zeroes, **values} == _fields(bytes(buffer), layout.OPEN_SLOT_FIELDS)


@pytest.mark.parametrize("form", RECORD_FIELDS)
def test_record_forms(form: str) -> None:
    """Every form of a record puts each field where the layout has it, and says what is absent."""
    names = RECORD_FIELDS[form]
    values = {name: 100 + at for at, name in enumerate(names)}
    expected: dict[str, object] = {
        name: b"" if code.endswith("s") else 0 for name, _, code in layout.RECORD_FIELDS
    }
    del expected["sequence"]
    expected |= dict.fromkeys(layout.COUNTERS, layout.ABSENT)
    expected |= {
        "trace_id": bytes(16),
        "trace_parent": bytes(8),
        "request_id": bytes(64),
        "thread_id": 77,
    }
    tail: tuple[object, ...]
    if form in {"PLAIN", "PART"}:
        facts = records.ThreadFacts()
        tail = (facts.tail,)
        expected["thread_id"] = facts.native_id
    else:
        tail = REST[form]
        expected |= {"tenant": 5, "model": 6, "request_id": b"\x02\x00id" + bytes(60)}
    if form == "RECORD":
        expected |= {"adapter": 7, "engine": 8, "trace_id": b"t" * 16, "trace_parent": b"p" * 8}
    buffer = bytearray(b"\xaa" * layout.RECORD_PAYLOAD.size)

    getattr(records, form).pack_into(buffer, 0, *values.values(), *tail)

    assert {**expected, **values} == _fields(bytes(buffer), layout.RECORD_FIELDS)


@pytest.mark.parametrize("form", [*OPEN_FIELDS, *RECORD_FIELDS])
def test_form_sizes(form: str) -> None:
    """No form writes into its neighbour."""
    whole = layout.OPEN_SLOT_TAIL if form in OPEN_FIELDS else layout.RECORD_PAYLOAD
    assert getattr(records, form).size == whole.size
