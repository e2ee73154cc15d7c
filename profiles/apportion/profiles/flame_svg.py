"""A flame graph as a picture: self-contained SVG without script, the root on top.

Every frame says its figures when the pointer rests on it. What searches and zooms is the page.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from apportion.profiles.flame_colour import colours
from apportion.profiles.flame_frames import FlameTree
from apportion.profiles.flame_text import figures, heading
from apportion.profiles.xml_text import xml_text

WIDTH: Final = 1200
MARGIN: Final = 10
ROW: Final = 17
HEAD: Final = 58
LETTER: Final = 6.7
"""How wide a letter of the frames is, about."""
_LEAST_LETTERS: Final = 3


def flame_svg(tree: FlameTree, title: str, *, is_difference: bool = False) -> str:
    """The picture."""
    height = HEAD + ROW * (max(tree.depth) + 1) + MARGIN
    about = heading(tree, is_difference=is_difference)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}">',
        f"<title>{xml_text(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        '<g font-family="sans-serif" fill="#222222">',
        f'<text x="{MARGIN}" y="24" font-size="17">{xml_text(title)}</text>',
        f'<text x="{MARGIN}" y="44" font-size="12">{xml_text(about)}</text>',
        "</g>",
        '<g font-family="monospace" font-size="11" stroke="#ffffff" stroke-width="0.5">',
        *_frames(tree, is_difference=is_difference),
        "</g>",
        "</svg>\n",
    ]
    return "\n".join(parts)


def _frames(tree: FlameTree, *, is_difference: bool) -> Iterator[str]:
    scale = (WIDTH - 2 * MARGIN) / max(1, tree.widths[0])
    lefts = [MARGIN + start * scale for start in tree.start]
    widths = [width * scale for width in tree.widths]
    tops = [HEAD + ROW * depth for depth in tree.depth]
    for index, colour in enumerate(colours(tree, is_difference=is_difference)):
        name = tree.name(index)
        left, width, top = lefts[index], widths[index], tops[index]
        told = "\n".join(map(xml_text, (name, *figures(tree, index, is_difference=is_difference))))
        label = _label(name, left, top, width)
        yield (
            f'<g><title>{told}</title><rect x="{left:.2f}" y="{top}" '
            f'width="{width:.2f}" height="{ROW - 1}" fill="{colour}"/>{label}</g>'
        )


def _label(name: str, left: float, top: int, width: float) -> str:
    letters = int((width - 4) / LETTER)
    if letters < _LEAST_LETTERS:
        return ""
    short = name if len(name) <= letters else f"{name[: letters - 1]}…"
    return f'<text x="{left + 2:.2f}" y="{top + 12}" stroke="none">{xml_text(short)}</text>'
