"""The table of words."""

from __future__ import annotations

import pytest
from tests.agent.ingest.conftest import Bench
from tests.agent.ingest.writer import SMALL_WORDS

from apportion.client import layout


def test_words_are_decoded_after_two_looks(bench: Bench) -> None:
    """Protects a text that comes after its state."""
    writer = bench.write()
    reader = bench.read()
    bench.poll()
    *text, state = writer.word_stores(2, "a tenant with a long name")
    writer.apply(state)
    for _ in range(20):
        if not reader._words._seen:
            bench.poll()
    writer.apply(*text)
    assert bench.poll()[0].words[2] == "a tenant with a long name"


def test_a_devices_uuid_is_found_although_no_record_names_it(bench: Bench) -> None:
    """Protects the binding of a ring to its devices."""
    writer = bench.write()
    bench.read()
    bench.poll(3)
    writer.apply(*writer.word_stores(2, "search"))
    writer.apply(*writer.word_stores(3, "GPU-1234", layout.WORD_DEVICE))
    *_, poll = bench.poll(20)
    assert poll.devices == ("GPU-1234",)
    assert poll.words == (None, "other", "search", None)


def test_words_beyond_a_gap_are_found_when_named(bench: Bench) -> None:
    """Protects words whose predecessor was never stored."""
    writer = bench.write(word_capacity=64)
    bench.read()
    bench.poll(3)
    writer.apply(*writer.word_stores(40, "far"))
    writer.write(1, tenant=40, model=39)
    *_, poll = bench.poll(3)
    assert poll.words[40] == "far"
    assert len(poll.words) == 41


def test_an_open_spans_words_are_found(bench: Bench) -> None:
    """Protects live gauges by tenant."""
    writer = bench.write()
    bench.read()
    bench.poll(3)
    writer.apply(*writer.word_stores(5, "acme"), *writer.word_stores(6, "llama"))
    writer.apply(*writer.open_stores(0, 900, 4, words=5 | 6 << 32))
    *_, poll = bench.poll(2)
    assert (poll.words[5], poll.words[6]) == ("acme", "llama")


def test_the_words_of_a_dead_ring_are_final(bench: Bench) -> None:
    """Protects the last words of a killed process."""
    writer = bench.write()
    writer.apply(*writer.word_stores(2, "late"))
    bench.alive = False
    bench.read()
    assert bench.poll(2)[-1].words[2] == "late"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [("naïve ✓", "naïve ✓"), (b"\xff\x00a", "\ufffd\ufffda"), ("a\nb\u2028", "a\ufffdb\ufffd")],
)
def test_words_are_made_safe(bench: Bench, raw: str | bytes, expected: str) -> None:
    """Protects labels and terminals from what a tenant calls itself."""
    writer = bench.write()
    writer.apply(*writer.word_stores(2, raw))
    writer.write(1, tenant=2, model=0, adapter=0)
    bench.read()
    assert bench.poll(3)[-1].words[2] == expected


@pytest.mark.parametrize(("kind", "used"), [(0, 1), (9, 1), (1, 0)])
def test_an_impossible_word_is_none(bench: Bench, kind: int, used: int) -> None:
    """Protects against states that no writer stores."""
    writer = bench.write()
    writer.apply(*writer.word_stores(2, "x", kind, used))
    writer.write(1, tenant=2)
    bench.read()
    *_, poll = bench.poll(3)
    assert poll.words[2] is None
    assert poll.records["tenant"].tolist() == [2]


def test_a_word_longer_than_its_room_is_none(bench: Bench) -> None:
    """Protects the next word from being read as part of this one."""
    writer = bench.write()
    (state,) = (store for store in writer.word_stores(2, b"y" * 128)[-1:])
    writer.apply(state)
    writer.write(1, tenant=2)
    bench.read()
    assert bench.poll(3)[-1].words[2] is None


def test_the_first_text_of_a_word_holds(bench: Bench) -> None:
    """Protects charges from a tenant that renames itself afterwards."""
    writer = bench.write()
    writer.apply(*writer.word_stores(2, "first"))
    writer.write(1, tenant=2)
    bench.read()
    bench.poll(3)
    writer.apply(*writer.word_stores(2, "other tenant"))
    writer.write(1, tenant=2)
    assert bench.poll(9)[-1].words[2] == "first"


def test_a_full_table_is_read(bench: Bench) -> None:
    """Protects the last word of the table."""
    writer = bench.write()
    for index in range(2, SMALL_WORDS):
        writer.apply(*writer.word_stores(index, f"word {index}"))
    bench.read()
    *_, poll = bench.poll(20)
    assert poll.words == (None, "other", *(f"word {index}" for index in range(2, SMALL_WORDS)))
