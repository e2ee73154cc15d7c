"""Where a flame graph goes: the ending of the file's name says in which form."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from apportion.core.errors import ConfigError
from apportion.profiles.flame_page import flame_page
from apportion.profiles.flame_svg import WIDTH, flame_svg
from apportion.profiles.flame_tree import FlameTree, flame_tree
from apportion.profiles.folded_text import folded_lines
from apportion.profiles.pprof import pprof
from apportion.profiles.py_spy import PROCESS
from apportion.profiles.py_spy_events import AT, SEEN
from apportion.profiles.speedscope import speedscope_json
from apportion.profiles.stacks import Stacks

PICTURE_PX: Final = 0.5
PAGE_PX: Final = 0.1
"""A page zooms into what a picture cannot show."""


@dataclass(frozen=True, slots=True)
class Graph:
    """What is to be written. row: the weight that is the width."""

    stacks: Stacks
    row: int
    title: str
    min_width_px: float | None
    is_difference: bool = False

    def tree(self, min_width_px: float) -> FlameTree:
        """Its frames in their places, but for those below the least width; the default is given."""
        least = min_width_px if self.min_width_px is None else self.min_width_px
        return flame_tree(self.stacks, self.row, least / WIDTH)

    def svg(self) -> bytes:
        """The picture."""
        return flame_svg(
            self.tree(PICTURE_PX), self.title, is_difference=self.is_difference
        ).encode()

    def page(self) -> bytes:
        """The page that searches and zooms."""
        return flame_page(self.tree(PAGE_PX), self.title, is_difference=self.is_difference).encode()

    def folded(self) -> bytes:
        """Folded text of the weight that is the width; it has no room for labels."""
        plain = self.stacks.without(*self.stacks.labels)
        return "".join(folded_lines(plain.merged(), self.row)).encode()

    def speedscope(self) -> bytes:
        """speedscope's JSON, with every weight."""
        return speedscope_json(self.stacks.merged(), self.title)

    def pprof(self) -> bytes:
        """pprof's protobuf, with every weight; samples of the same ids are one."""
        return pprof(self.stacks.without(AT, SEEN, PROCESS).merged(), self.row)


_FORMS: Final[dict[str, Callable[[Graph], bytes]]] = {
    ".svg": Graph.svg,
    ".html": Graph.page,
    ".folded": Graph.folded,
    ".txt": Graph.folded,
    ".json": Graph.speedscope,
    ".pb.gz": Graph.pprof,
    ".pprof": Graph.pprof,
}


def add_output(parser: argparse.ArgumentParser, default_title: str, *, default: str = "-") -> None:
    """The file, and how it looks."""
    parser.add_argument(
        "-o",
        "--out",
        metavar="FILE",
        default=default,
        help="what to write, by its ending: .html (interactive page), .svg (picture), .folded or "
        ".txt, .json (speedscope), .pb.gz or .pprof; - is folded text on stdout"
        + (" (default)" if default == "-" else ""),
    )
    parser.add_argument("--title", default=default_title, help="what stands above the picture")
    parser.add_argument(
        "--min-width",
        type=_pixels,
        metavar="PX",
        help=f"frames narrower than this, in a picture of {WIDTH} px, are not drawn; their width "
        f"stays and every sum is exact (default: {PICTURE_PX}, of pages {PAGE_PX})",
    )


def checked_out(options: argparse.Namespace) -> Callable[[Graph], bytes]:
    """The form that --out asks for; before anything is read.

    Raises:
        ConfigError: its ending is not known.
    """
    if options.out == "-":
        return Graph.folded
    for ending, form in _FORMS.items():
        if options.out.endswith(ending):
            return form
    raise ConfigError(f"--out {options.out}: the ending says no form; known: {', '.join(_FORMS)}")


def write(options: argparse.Namespace, content: bytes) -> None:
    """Write it.

    Raises:
        ConfigError: it cannot be written there.
    """
    if options.out == "-":
        sys.stdout.write(content.decode())
        return
    path = Path(options.out)
    try:
        path.write_bytes(content)
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror or error}", path=path) from error


def _pixels(text: str) -> float:
    try:
        pixels = float(text)
    except ValueError:
        pixels = -1.0
    if not 0 <= pixels <= WIDTH:
        raise argparse.ArgumentTypeError(f"{text} is no number of pixels from 0 to {WIDTH}")
    return pixels
