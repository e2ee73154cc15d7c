"""The tree of a flame graph: exact whatever is left out, and every frame inside its caller."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.profiles.stacking import stacks_of, totals_of

from apportion.core.errors import ProfileTraceError
from apportion.profiles.flame_frames import AFTER, BEFORE, BOTH, FlameTree
from apportion.profiles.flame_tree import flame_tree
from apportion.profiles.folded_tree import folded_tree
from apportion.profiles.frame_totals import FrameTotals
from apportion.profiles.stack_difference import difference
from apportion.profiles.stacks import StackColumns
from apportion.profiles.weight import COUNT, TIME, Weight, cost

STACKS = st.lists(
    st.tuples(
        st.lists(st.sampled_from("abcd"), max_size=5).map(";".join),
        st.tuples(st.integers(0, 50), st.integers(0, 1 << 40)),
    ),
    max_size=20,
)


def paths(tree: FlameTree) -> list[tuple[str, ...]]:
    """The path of each frame, the root's is empty."""
    found: list[tuple[str, ...]] = [()]
    for index in range(1, len(tree)):
        found.append((*found[tree.parent[index]], tree.name(index)))
    return found


@given(STACKS)
def test_tree_is_that_of_the_obvious_way(content: list[tuple[str, tuple[int, int]]]) -> None:
    """Levels in arrays give every frame and total that walking stack by stack gives."""
    stacks = stacks_of(content, (COUNT, TIME))

    tree = flame_tree(stacks, 1)

    assert dict(zip(paths(tree), tree.widths, strict=True)) == totals_of(stacks, 1)
    counts = totals_of(stacks, 0)
    for path, count in zip(paths(tree), tree.totals[0], strict=True):
        # what weighs nothing in the width's weight is not there, with all that it called
        assert count <= counts.get(path, 0)
    assert tree.narrow == 0


@given(STACKS, st.floats(0, 1))
def test_every_total_is_exact_whatever_is_left_out(
    content: list[tuple[str, tuple[int, int]]], least: float
) -> None:
    """A frame is itself, its drawn callees and what was too narrow, inside it and in order."""
    stacks = stacks_of(content, (COUNT, TIME))
    known = totals_of(stacks, 1)

    tree = flame_tree(stacks, 1, least)

    assert tree.widths[0] == stacks.total(1)
    for index, path in enumerate(paths(tree)):
        start, width = tree.start[index], tree.widths[index]
        callees = [one for one in range(1, len(tree)) if tree.parent[one] == index]
        assert width == known[path]
        assert width == tree.own[index] + tree.hidden[index] + sum(
            tree.widths[one] for one in callees
        )
        names = [tree.name(one) for one in callees]
        assert names == sorted(names)
        edges = [start]
        for one in callees:
            assert tree.start[one] >= edges[-1]
            edges.append(tree.start[one] + tree.widths[one])
        assert edges[-1] <= start + width


TEXTS = st.lists(
    st.tuples(
        st.lists(st.sampled_from(["a", "b", "", "c d"]), min_size=1, max_size=5).map(";".join),
        st.integers(0, 50),
    ),
    max_size=20,
)


@given(TEXTS, st.floats(0, 1))
def test_text_and_columns_make_one_tree(content: list[tuple[str, int]], least: float) -> None:
    """What is drawn at once from folded text is what is drawn from its stacks."""
    columns = StackColumns()
    for stack, value in content:
        columns.add(stack.split(";"), (value,))
    stacks = columns.stacks((COUNT,))

    by_columns, by_text = flame_tree(stacks, 0, least), folded_tree(content, COUNT, least)

    assert [by_columns.name(index) for index in range(len(by_columns))] == [
        by_text.name(index) for index in range(len(by_text))
    ]
    for field in ("parent", "depth", "start", "totals", "own", "hidden", "narrow", "weights"):
        assert getattr(by_columns, field) == getattr(by_text, field), field


def test_text_of_too_much_is_refused() -> None:
    """As the columns would be."""
    with pytest.raises(ProfileTraceError, match="more than 2\\^63"):
        folded_tree([("a", 1 << 62), ("b", 1 << 62)], COUNT)


def test_narrow_frames_are_counted_and_hide_what_they_call() -> None:
    """A frame below the least width is one that was left out, and stays in its caller's width."""
    stacks = stacks_of([("a;wide", 97), ("a;thin;deep", 2), ("b", 1)])

    tree = flame_tree(stacks, 0, 0.5)

    assert paths(tree) == [(), ("a",), ("a", "wide")]
    assert tree.hidden == [1, 2, 0]
    assert tree.narrow == 2


def test_stacks_that_are_there_twice_are_one() -> None:
    """Merged stacks keep order, weights and labels."""
    stacks = stacks_of([("a;b", 1), ("", 5), ("a", 2), ("a;b", 4)])

    merged = stacks.merged()

    assert [merged.stack(index) for index in range(len(merged))] == [["a", "b"], [], ["a"]]
    assert merged.values.tolist() == [[5, 5, 2]]


def test_files_of_other_weights_are_not_added_up() -> None:
    """Samples and nanoseconds make no sum."""
    with pytest.raises(ProfileTraceError, match="cannot be added up"):
        stacks_of([("a", 1)]).together(stacks_of([("a", 1)], (TIME,)))


@pytest.mark.parametrize(
    ("value", "said"), [((-1, 1), "below 0"), ((1 << 62, 1 << 62), "more than 2\\^63")]
)
def test_weights_that_no_width_shows_are_refused(value: tuple[int, int], said: str) -> None:
    """A sum that overflows its column would be a lie without a word."""
    with pytest.raises(ProfileTraceError, match=said):
        stacks_of([("a", value[0]), ("b", value[1])])


def test_difference_shows_what_vanished_and_what_is_new() -> None:
    """Both totals are exact on every frame; the width is both together."""
    dollars = cost("USD")
    before = stacks_of([("step;old", 5), ("step;same", 2)], (dollars,))
    after = stacks_of([("step;same", 3), ("step;new", 9)], (dollars,))

    tree = flame_tree(difference(before, after, None), BOTH)

    named = {tree.name(index): index for index in range(len(tree))}
    assert {
        name: (tree.totals[BEFORE][index], tree.totals[AFTER][index])
        for name, index in named.items()
    } == {"all": (7, 12), "step": (7, 12), "old": (5, 0), "same": (2, 3), "new": (0, 9)}


def test_only_like_is_compared() -> None:
    """Dollars and euros have no difference."""
    dollars, euros = (stacks_of([("a", 1)], (cost(code),)) for code in ("USD", "EUR"))

    with pytest.raises(ProfileTraceError, match="in USD, after cost in EUR"):
        difference(dollars, euros, None)


def test_a_frame_that_calls_itself_counts_once() -> None:
    """A total is never more than the whole; own goes to the last frame alone."""
    stacks = stacks_of([("f;g;f", 4), ("g", 1), ("", 2)])

    totals = FrameTotals.of(stacks, 0)

    assert stacks.names == ("f", "g")
    assert totals.own.tolist() == [4, 1]
    assert totals.total.tolist() == [4, 5]


@pytest.mark.parametrize(
    ("weight", "value", "text"),
    [
        (cost("USD"), 30_345_000_001, "0.030345000001 USD"),
        (TIME, 1_500, "1.500 us"),
        (TIME, 3_020_000_000, "3.020 s"),
        (TIME, 0, "0 ns"),
        (Weight("energy", "millijoules"), 1_234_567, "1,234.567 J"),
        (COUNT, 1_234, "1,234 samples"),
    ],
)
def test_figures_have_their_units(weight: Weight, value: int, text: str) -> None:
    """Money to the last unit, times as people say them."""
    assert weight.text(value) == text


def test_labels_stay_with_their_stacks() -> None:
    """What a stack belongs to survives being added to another file's stacks."""
    first = stacks_of([("a", 1)])
    second = stacks_of([("step 7", 0), ("b", 2)])
    labelled = replace(second, labels={"step": np.array([-1, 0], np.int32)})

    both = first.together(labelled)

    assert [None if code < 0 else both.names[code] for code in both.labels["step"].tolist()] == [
        None,
        None,
        "step 7",
    ]
