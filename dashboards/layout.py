"""A dashboard's layout as a picture: where its panels are, what they show, and nothing else."""

from __future__ import annotations

from html import escape
from typing import Final

from dashboards.panel import Board, Panel

HEIGHTS: Final = {"graph": 8, "stack": 8, "table": 8, "number": 4}
"""Of each kind of panel, in rows of Grafana's grid."""
COLUMNS: Final = 24
_CELL: Final = 40
_LINE: Final = 14
_MARKS: Final = {
    "graph": "M0 24 L16 10 L32 18 L48 4 L64 14 L80 8",
    "stack": "M0 24 L0 14 L27 8 L54 12 L80 4 L80 24 Z",
    "table": "M0 6 H80 M0 14 H80 M0 22 H80",
    "number": "M0 20 H24",
}


def picture(board: Board) -> str:
    """The picture, as SVG."""
    parts: list[str] = []
    y = 0
    for row in board.rows:
        parts.append(_text(4, y * _LINE + 12, row.title, "row"))
        y += 2
        x = height = 0
        for panel in row.panels:
            if x + panel.span > COLUMNS:
                x, y, height = 0, y + height, 0
            parts += _panel(panel, x, y)
            x += panel.span
            height = max(height, HEIGHTS[panel.kind])
        y += height
    style = (
        "text{font:12px sans-serif;fill:#222}.row{font-weight:bold}"
        ".needs{fill:#777;font-size:10px}rect{fill:#f6f6f6;stroke:#999}"
        "path{fill:none;stroke:#7a9cc6;vector-effect:non-scaling-stroke}"
    )
    size = f'viewBox="0 0 {COLUMNS * _CELL} {y * _LINE}" width="{COLUMNS * _CELL}"'
    label = escape(f"Layout of the dashboard {board.title}")
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{label}">',
        f"<style>{style}</style>",
        '<rect width="100%" height="100%" style="fill:#fff;stroke:none"/>',
        *parts,
        "</svg>",
        "",
    ]
    return "\n".join(lines)


def _panel(panel: Panel, x: int, y: int) -> list[str]:
    left, top = x * _CELL + 2, y * _LINE + 2
    width, height = panel.span * _CELL - 4, HEIGHTS[panel.kind] * _LINE - 4
    wide = f"scale({(width - 16) / 80:.2f} {(height - 44) / 28:.2f})"
    parts = [
        f'<rect x="{left}" y="{top}" width="{width}" height="{height}" rx="3"/>',
        _text(left + 8, top + 18, panel.title),
        f'<path d="{_MARKS[panel.kind]}" transform="translate({left + 8} {top + 25}) {wide}"/>',
    ]
    if panel.needs:
        needs = f"needs {panel.needs}".replace("`", "")
        parts.append(_text(left + 8, top + height - 8, needs, "needs"))
    return parts


def _text(x: int, y: int, text: str, kind: str = "") -> str:
    chosen = f' class="{kind}"' if kind else ""
    return f'<text x="{x}" y="{y}"{chosen}>{escape(text)}</text>'
