"""Tables line up in a terminal, whatever the names in them are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from apportion.cost.table import CUT, SHORTEST_TEXT, Table, columns_of

WIDE, ACCENTED = "東京の学習", "re\u0301sume\u0301"


def table(*names: str) -> Table:
    made = Table("Title", ("workload", "cost"), 1)
    for name in names:
        made.add(name, "1.00")
    return made


def test_columns_stand_below_one_another() -> None:
    """A name in wide characters, or with accents apart, moves no figure."""
    lines = table("plain", WIDE, ACCENTED).lines(60)[1:]
    assert {columns_of(line) for line in lines} == {2 + columns_of(WIDE) + 2 + len("1.00")}
    assert [columns_of(text) for text in (WIDE, ACCENTED, "")] == [10, 6, 0]


@given(
    names=st.lists(st.text(max_size=60), min_size=1, max_size=5),
    width=st.integers(2 + SHORTEST_TEXT + 2 + len("cost"), 80),
)
def test_no_line_is_wider_than_the_page(names: list[str], width: int) -> None:
    """A long name is cut at a character, and nothing in it steers the terminal."""
    for line in table(*names).lines(width)[1:]:
        assert columns_of(line) <= width
        assert line.isprintable()


def test_a_wide_name_is_cut_where_it_fits() -> None:
    """Half of a character cannot be shown."""
    (_, _, line) = table(WIDE * 3).lines(22)
    assert CUT in line
    assert columns_of(line) <= 22
