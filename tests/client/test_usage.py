"""Token counts found in bodies of OpenAI-compatible servers."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apportion.client.usage import Usage, UsageReader

CHAT = {
    "prompt_tokens": 12,
    "completion_tokens": 3,
    "total_tokens": 15,
    "prompt_tokens_details": {"cached_tokens": 8},
}


def read(*pieces: bytes) -> Usage:
    """What a reader says after these pieces."""
    reader = UsageReader()
    for piece in pieces:
        reader.feed(piece)
    return reader.usage


def body(usage: Any, text: str = "hello") -> bytes:
    """An answer."""
    return json.dumps({"id": "c", "choices": [{"text": text}], "usage": usage}).encode()


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        pytest.param(CHAT, (12, 8, 3), id="chat"),
        pytest.param(
            {
                "input_tokens": 7,
                "output_tokens": 2,
                "input_tokens_details": {"cached_tokens": 0},
            },
            (7, 0, 2),
            id="responses",
        ),
        pytest.param(
            {
                "input_tokens": 7,
                "output_tokens": 2,
                "cache_read_input_tokens": 100,
                "cache_creation_input_tokens": 20,
            },
            (127, 100, 2),
            id="messages",
        ),
        pytest.param({"prompt_tokens": 5, "total_tokens": 5}, (5, None, None), id="embeddings"),
        pytest.param(None, (None, None, None), id="null"),
        pytest.param([1], (None, None, None), id="list"),
        pytest.param({"prompt_tokens": "5"}, (None, None, None), id="text"),
        pytest.param(
            {"prompt_tokens": -5, "completion_tokens": True}, (None,) * 3, id="impossible"
        ),
        pytest.param({"prompt_tokens": 5, "x": "y" * 5000}, (None,) * 3, id="too-long"),
    ],
)
def test_each_form_is_read(usage: Any, expected: tuple[int | None, ...]) -> None:
    """Input tokens include the cached ones, whoever answers; what is no count is none."""
    assert read(body(usage)) == expected


def test_a_stream_reports_at_its_end() -> None:
    """A null before, and [DONE] after, change nothing; a later report has the last word."""
    events = [
        b'data: {"choices":[{"delta":{"content":"a"}}],"usage":null}\n\n',
        b'data: {"choices":[],"usage":{"prompt_tokens":4,"completion_tokens":1}}\n\n',
        b'data: {"choices":[],"usage":{"prompt_tokens":4,"completion_tokens":9}}\n\n',
        b"data: [DONE]\n\n",
    ]
    assert read(*events) == (4, None, 9)


def test_messages_report_in_two_events() -> None:
    """Anthropic's stream says the input at its start and the output at its end."""
    events = [
        b'data: {"type":"message_start","message":{"usage":{"input_tokens":25}}}\n\n',
        b'data: {"type":"message_delta","usage":{"output_tokens":15}}\n\n',
    ]
    assert read(*events) == (25, None, 15)


@given(text=st.text(max_size=60), data=st.data())
def test_cut_anywhere_and_whatever_the_text_says(text: str, data: st.DataObject) -> None:
    """Pieces may end inside of the key, a number or a character; a text is never taken for it."""
    hostile = f'{text} {{"usage": {{"prompt_tokens": 999}}}} \\"usage\\":{{"completion_tokens":7}}'
    whole = body(CHAT, hostile)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    edges = [0, *cuts, len(whole)]
    pieces = [whole[begin:end] for begin, end in pairwise(edges)]
    assert read(*pieces) == (12, 8, 3)


def test_a_long_stream_is_not_kept() -> None:
    """What is held of a body doesn't grow with it."""
    reader = UsageReader()
    for _ in range(1000):
        reader.feed(b'data: {"choices":[{"delta":{"content":"' + b"x" * 1000 + b'"}}]}\n\n')
    assert len(reader._kept) < 100
    reader.feed(b'{"usage":{' + b"x" * 100_000)
    reader.feed(b"x" * 100_000)
    assert len(reader._kept) < 10_000
