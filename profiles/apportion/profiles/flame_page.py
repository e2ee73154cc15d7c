"""A flame graph as one page: search, zoom, tooltips, and nothing from anywhere else.

Names of frames are strangers' text. They travel as JSON in which no `<` is left, are put on the
page as text only, and the page's policy allows no script but the one whose hash it names, and no
connection at all.
"""

from __future__ import annotations

import base64
import hashlib
import json
from html import escape
from importlib.resources import files
from typing import Final

from apportion.profiles.flame_colour import colours
from apportion.profiles.flame_frames import FlameTree
from apportion.profiles.flame_text import figures, heading

_HARMLESS: Final = {ord(letter): f"\\u{ord(letter):04x}" for letter in "<>&\u2028\u2029"}


def flame_page(tree: FlameTree, title: str, *, is_difference: bool = False) -> str:
    """The page's text, in UTF-8."""
    script, style = _asset("flame_page.js"), _asset("flame_page.css")
    frames = [
        {
            "name": tree.name(index),
            "parent": parent,
            "depth": depth,
            # from the left edge of the whole, 0 to 1
            "left": start / max(1, tree.widths[0]),
            "width": width / max(1, tree.widths[0]),
            "colour": colour,
            "figures": list(figures(tree, index, is_difference=is_difference)),
        }
        for index, (parent, depth, start, width, colour) in enumerate(
            zip(
                tree.parent,
                tree.depth,
                tree.start,
                tree.widths,
                colours(tree, is_difference=is_difference),
                strict=True,
            )
        )
    ]
    data = json.dumps(frames, ensure_ascii=False, separators=(",", ":")).translate(_HARMLESS)
    policy = f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{escape(title)}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
<p>{escape(heading(tree, is_difference=is_difference))}</p>
<p><input id="search" type="search" placeholder="search frames" aria-label="search frames">
<button id="reset" type="button">whole graph</button> <output id="found"></output></p>
</header>
<main id="graph"></main>
<div id="tooltip" role="tooltip" hidden></div>
<script type="application/json" id="frames">{data}</script>
<script>{script}</script>
</body>
</html>
"""


def _asset(name: str) -> str:
    return files("apportion.profiles").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """What a policy calls the inline text by."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
