"""What colour a frame has: by its name, or by how much it changed."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Final

from apportion.profiles.flame_frames import AFTER, BEFORE, ROOT, FlameTree

_ROOT: Final = "#e8e8e8"
_CATEGORY: Final = "#c8ccd0"
_SAME: Final = 242
_DEEPEST: Final = 70


def colours(tree: FlameTree, *, is_difference: bool = False) -> list[str]:
    """A colour for each frame, as CSS and SVG write it.

    By name: warm ones, the same for the same name in every picture; grey for `[categories]`, which
    are no code. By change: red where it became more, blue where less, the deeper the more.
    """
    if is_difference:
        pairs = zip(tree.totals[AFTER], tree.totals[BEFORE], strict=True)
        return _by_change([after - before for after, before in pairs])
    by_code = {code: _by_name(tree.names[code]) for code in set(tree.frame) - {ROOT}}
    by_code[ROOT] = _ROOT
    return [by_code[code] for code in tree.frame]


def _by_name(name: str) -> str:
    if name.startswith("["):
        return _CATEGORY
    seed = zlib.crc32(name.encode("utf-8", "replace"))
    red, green, blue = 225 + seed % 30, 120 + (seed >> 8) % 100, 60 + (seed >> 16) % 50
    return f"#{red:02x}{green:02x}{blue:02x}"


def _by_change(change: Sequence[int]) -> list[str]:
    largest = max(1, *map(abs, change))
    paleness = [_SAME - (_SAME - _DEEPEST) * abs(more) / largest for more in change]
    return [
        f"#{_SAME:02x}{round(pale):02x}{round(pale):02x}"
        if more >= 0
        else f"#{round(pale):02x}{round(pale):02x}{_SAME:02x}"
        for more, pale in zip(change, paleness, strict=True)
    ]
