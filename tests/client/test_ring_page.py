"""docs/ring.md says what the layout is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from apportion.client import counting, layout
from apportion.client.identity import Arguments, identity_of, names_of
from apportion.client.process import Process

PAGE = (Path(__file__).parents[2] / "docs" / "ring.md").read_text()
TYPES = {"Q": "u64", "q": "i64", "I": "u32", "16s": "16 bytes"}


def section(title: str) -> str:
    """The text under a heading."""
    return PAGE.split(f"### {title}")[1].split("\n## ")[0].split("\n### ")[0]


def offsets(text: str) -> dict[str, int]:
    """Field names to offsets, from rows such as `| `a`, `b` | 0, 8 |`."""
    found: dict[str, int] = {}
    for names, numbers in re.findall(r"^\| (`[^|]*) \| ([\d, ]+) \|", text, re.MULTILINE):
        split = [int(each) for each in numbers.split(", ")]
        found |= dict(zip(re.findall(r"`(\w+)`", names), split, strict=True))
    return found


def test_header_fields() -> None:
    """Every field of the header, where it is and its type."""
    text = section("Header")
    assert layout.HEADER_OFFSETS == offsets(text)
    for name, offset, code in layout.HEADER_FIELDS:
        assert f"| `{name}` | {offset} | {TYPES[code]} |" in text


def test_open_slot_fields() -> None:
    """Every field of an open slot."""
    assert layout.OPEN_SLOT_OFFSETS == offsets(section("Open slots: what runs now"))


def test_record_fields() -> None:
    """Every field of a record; the counters stand in one row."""
    found = offsets(section("Records: what has ended"))
    left = set(layout.RECORD_OFFSETS) - {*layout.COUNTERS, "reserved"}
    assert {name: layout.RECORD_OFFSETS[name] for name in left} == found
    assert (80, 136) == (layout.RECORD_OFFSETS["input_tokens"], layout.RECORD_OFFSETS["reserved"])


@pytest.mark.parametrize(
    "text",
    [
        f"| words | {layout.WORDS_OFFSET} | {layout.WORD_CAPACITY} x {layout.WORD_BYTES} |",
        f"| open slots | {layout.OPEN_SLOTS_OFFSET:,} | 1024 x {layout.OPEN_SLOT_BYTES} |",
        f"| records | {layout.RECORDS_OFFSET:,} | capacity x {layout.RECORD_BYTES}",
        f"| identity | {layout.IDENTITY_OFFSET} | JSON | at most {layout.IDENTITY_BYTES} bytes |",
        f"`{layout.DEFAULT_DIRECTORY}`",
        f"$XDG_RUNTIME_DIR/{layout.USER_DIRECTORY}",
    ],
)
def test_parts(text: str) -> None:
    """Where each part begins, and the numbers in the text."""
    assert text in PAGE


def test_identity_keys() -> None:
    """Every key of the identity is named, and the client writes no other."""
    arguments = Arguments("w", "r", "3", 0, 1, ["d"], {"a": "b"}, 5, 7)
    environ = {"LOCAL_RANK": "0", "CUDA_VISIBLE_DEVICES": "0"}
    names = names_of(arguments, environ, Process(1, bytes(16), 1, 1), "node")
    written = set(identity_of(names, arguments, environ, "1", {"seed": "7"}))
    assert layout.IDENTITY_KEYS - {"kind", "parallel"} == written
    assert all(f"`{key}`" in PAGE for key in layout.IDENTITY_KEYS)
    assert {} == counting.counts()
