"""Where a flame graph goes: the ending of the file's name says in which form."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from apportion.core.errors import ConfigError
from apportion.profiles.flame_svg import WIDTH

PICTURE_PX: Final = 0.5
PAGE_PX: Final = 0.1
"""A page zooms into what a picture cannot show."""
FOLDED: Final = ".folded"
_FORMS: Final = {
    ".svg": ".svg",
    ".html": ".html",
    ".folded": FOLDED,
    ".txt": FOLDED,
    ".json": ".json",
    ".pb.gz": ".pb.gz",
    ".pprof": ".pb.gz",
}
"""The form of each ending."""


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


def checked_out(options: argparse.Namespace) -> str:
    """The form that --out asks for; before anything is read.

    Raises:
        ConfigError: its ending is not known.
    """
    if options.out == "-":
        return FOLDED
    for ending, form in _FORMS.items():
        if options.out.endswith(ending):
            return form
    raise ConfigError(f"--out {options.out}: the ending says no form; known: {', '.join(_FORMS)}")


def least_share(form: str, min_width_px: float | None) -> float:
    """Of the whole, below which a frame is not drawn; the default of the form is given."""
    normal_px = PAGE_PX if form == ".html" else PICTURE_PX
    return (normal_px if min_width_px is None else min_width_px) / WIDTH


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
