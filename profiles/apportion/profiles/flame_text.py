"""What a flame graph says of its frames: figures and shares, in the words of every picture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from apportion.profiles.flame_frames import AFTER, BEFORE, FlameTree

CALLED_TOO_NARROW: Final = "callees too narrow to be drawn"


def figures(tree: FlameTree, index: int, *, is_difference: bool = False) -> Iterator[str]:
    """A line for each figure of a frame; of the weight that is the width with its share."""
    if is_difference:
        before, after = tree.totals[BEFORE][index], tree.totals[AFTER][index]
        weight = tree.weights[AFTER]
        change = f"{'+' if after >= before else '-'}{weight.text(abs(after - before))}"
        yield f"{change}, {100 * (after - before) / before:+,.2f} %" if before else change
        yield f"before {weight.text(before)}"
        yield f"after {weight.text(after)}"
        return
    total, whole = tree.widths[index], tree.widths[0]
    width = tree.weights[tree.width]
    share = 100 * total / whole if whole else 0.0
    yield f"{width.text(total)} ({share:.2f} % of all)"
    if tree.own[index] not in {0, total}:
        yield f"{width.text(tree.own[index])} of it in this frame itself"
    if tree.hidden[index]:
        yield f"{width.text(int(tree.hidden[index]))} of it in {CALLED_TOO_NARROW}"
    for row, weight in enumerate(tree.weights):
        if row != tree.width:
            yield f"{weight.name} {weight.text(tree.totals[row][index])}"


def heading(tree: FlameTree, *, is_difference: bool = False) -> str:
    """What the whole picture is about, in a line."""
    left_out = (
        f"; {tree.narrow:,} frames too narrow to be drawn, whose width stays" if tree.narrow else ""
    )
    if is_difference:
        weight = tree.weights[AFTER]
        before, after = tree.totals[BEFORE][0], tree.totals[AFTER][0]
        sign = "+" if after >= before else "-"
        return (
            f"{weight.name}: {weight.short(before)} before, {weight.short(after)} after, "
            f"{sign}{weight.short(abs(after - before))}; red is more, blue is less{left_out}"
        )
    width = tree.weights[tree.width]
    return f"width: {width.name}, {width.text(tree.widths[0])} in all{left_out}"
