"""What a request says of itself: id, labels, trace."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.client.decoded import labels, only, request_id

from apportion import client
from apportion.client import layout
from apportion.client.counting import forget_counts
from apportion.client.encoding import request_id_field, trace_field, word_text

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
LONGEST = layout.REQUEST_ID_TEXT_BYTES


@pytest.mark.parametrize(
    "given_id", ["", "r", "x" * LONGEST, "ä" * (LONGEST // 2), 12345, uuid.UUID(int=77)]
)
def test_ids_that_fit_are_verbatim(directory: Path, given_id: Any) -> None:
    """An id of at most 62 bytes is stored as it is, an int and a UUID as their text."""
    with client.request(given_id):
        pass
    assert [(str(given_id), False)] == [
        request_id(each["request_id"]) for each in only(directory).records
    ]


@pytest.mark.parametrize("given_id", ["x" * (LONGEST + 1), "ä" * 32, "\ud800" * 70])
def test_longer_ids_are_hashed(directory: Path, given_id: str) -> None:
    """A longer id is stored as its digest, and says so."""
    with client.request(given_id):
        pass
    ((text, hashed),) = [request_id(each["request_id"]) for each in only(directory).records]
    assert hashed
    assert text.startswith("sha256:")
    assert 55 == len(text)


@pytest.mark.parametrize("given_id", [1.5, b"r", object(), True, ["r"]])
def test_other_ids_are_ignored(directory: Path, given_id: Any) -> None:
    """An id of another type is left out and counted; the request is recorded."""
    with client.request(given_id):
        pass
    assert [("", False)] == [request_id(each["request_id"]) for each in only(directory).records]
    assert {"request_id_ignored": 1} == client.counts()


@given(text=st.text(max_size=200))
def test_id_field_fits_and_tells_apart(text: str) -> None:
    """Any id fits its field; one that fits comes back, one that does not is a digest."""
    head, stored = request_id_field(text)
    assert len(stored) <= LONGEST
    assert head & 0xFF == len(stored)
    assert (head >> 8 == 1) == (len(text.encode()) > LONGEST)


@given(text=st.text(min_size=1, max_size=200), other=st.text(min_size=1, max_size=200))
def test_words_fit_and_tell_apart(text: str, other: str) -> None:
    """Any label fits a word, as UTF-8, and two labels are two words."""
    stored = word_text(text)
    assert len(stored) <= layout.WORD_TEXT_BYTES
    stored.decode()
    assert (word_text(other) == stored) == (other == text)


def test_labels_are_interned_once(directory: Path) -> None:
    """Equal labels share a word, whichever of the three they are; no label is word 0."""
    for _ in range(3):
        with client.request("r", tenant="a", model="m", adapter="a"):
            pass
        with client.request("r", tenant="a"), client.request("r", model="m"):
            pass
        client.request("r", adapter="a").start().finish()
    with client.request("r", tenant=""):
        pass
    found = only(directory)
    assert {(1, "other"), (1, "a"), (1, "m")} == set(found.words.values())
    rounds = [["a", "m", "a"], [None, "m", None], ["a", None, None], [None, None, "a"]]
    assert rounds * 3 + [[None] * 3] == [labels(found, each) for each in found.records]


@pytest.mark.parametrize("label", [7, b"a", ["a"], object()])
def test_other_labels_are_ignored(directory: Path, label: Any) -> None:
    """A label that is no string is left out and counted; the others stay."""
    with client.request("r", tenant=label, model="m"):
        pass
    with client.request("r", tenant=label):
        pass
    found = only(directory)
    assert [[None, "m", None], [None] * 3] == [labels(found, each) for each in found.records]
    assert {"label_ignored": 2} == client.counts()


def test_a_tenant_called_other(directory: Path) -> None:
    """A user's label `other` is the reserved word, not a second one."""
    with client.request("r", tenant="other"):
        pass
    assert [layout.OTHER_WORD] == [each["tenant"] for each in only(directory).records]


@pytest.mark.parametrize("version", ["00", "01"])
def test_traceparent(directory: Path, version: str) -> None:
    """Trace id and parent id of the W3C header are stored as bytes."""
    with client.request("r", traceparent=f"{version}-{TRACE}-{PARENT}-01"):
        pass
    (record,) = only(directory).records
    assert (bytes.fromhex(TRACE), bytes.fromhex(PARENT)) == (
        record["trace_id"],
        record["trace_parent"],
    )


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00",
        f"00-{TRACE}-{PARENT}",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{'g' * 32}-{PARENT}-01",
        f"00-{'  ' * 16}-{PARENT}-01",
        f"00-{TRACE[1:]}-{PARENT}-011",
        7,
        f"00-{TRACE}-{PARENT}-01".encode(),
    ],
)
def test_malformed_traceparents_are_ignored(directory: Path, header: Any) -> None:
    """What is no traceparent leaves the trace empty, and is counted."""
    with client.request("r", traceparent=header):
        pass
    (record,) = only(directory).records
    assert bytes(24) == record["trace_id"] + record["trace_parent"]
    assert {"traceparent_ignored": 1} == client.counts()


@given(header=st.text(alphabet="0123456789abcdefxf- ", max_size=60))
def test_any_header_is_a_trace_or_nothing(header: str) -> None:
    """No header makes a trace of another length."""
    assert len(trace_field(header)) in {0, 24}
    forget_counts()


@pytest.mark.parametrize("arrival", [0, -5, 1 << 62, 1.5, "now", True])
def test_other_arrivals_are_ignored(directory: Path, arrival: Any) -> None:
    """An arrival that is no past time of the monotonic clock is left out and counted."""
    with client.request("r", arrival_ns=arrival):
        pass
    assert [0] == [each["arrival_ns"] for each in only(directory).records]
    assert {"arrival_ignored": 1} == client.counts()
