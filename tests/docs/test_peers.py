"""The table of peers: a yes of ours has its test, a word about others its source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "peers.md"
OURS = re.compile(r"\[yes\]\((?P<file>[^#)]+)#(?P<test>test_\w+)\)|no")
THEIRS = re.compile(r"\?|[^\[\]|]+ (?P<sources>(?:\[\w+\],? ?)+)")
DEFINED = dict(re.findall(r"^\[(\w+)\]: (https://\S+)$", PAGE.read_text(), re.MULTILINE))


def rows() -> Iterator[list[str]]:
    """The cells of each feature's row."""
    for line in PAGE.read_text().splitlines():
        if line.startswith("| ") and not line.startswith(("| |", "| ---")):
            yield [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("row", list(rows()), ids=lambda row: row[0])
def test_every_cell_has_what_stands_behind_it(row: list[str]) -> None:
    """Ours is no, or a test that exists and is not skipped; theirs is unread, or has a source."""
    _, ours, *theirs = row
    found = OURS.fullmatch(ours)
    assert found is not None, ours
    if found["file"] is not None:
        tree = ast.parse((PAGE.parent / found["file"]).read_text())
        tests = {each.name: each for each in tree.body if isinstance(each, ast.FunctionDef)}
        marks = [ast.unparse(mark) for mark in tests[found["test"]].decorator_list]
        assert [mark for mark in marks if "skip" in mark or "xfail" in mark or "gpu" in mark] == []
    assert len(theirs) == 5
    for cell in theirs:
        told = THEIRS.fullmatch(cell)
        assert told is not None, cell
        sources = re.findall(r"\[(\w+)\]", told["sources"] or "")
        assert set(sources) <= DEFINED.keys()


def test_every_source_is_used() -> None:
    """A link that nothing rests on is left over."""
    used = {name for row in rows() for cell in row[2:] for name in re.findall(r"\[(\w+)\]", cell)}
    assert used == DEFINED.keys()
