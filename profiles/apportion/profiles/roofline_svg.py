"""The picture: both axes logarithmic, a roof for each device, a dot for each kernel or run.

Self-contained SVG without script; every dot says its figures when the pointer rests on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from apportion.profiles.roofline import Measured, Roof
from apportion.profiles.xml_text import xml_text

WIDTH: Final = 960
HEIGHT: Final = 560
LEFT, RIGHT, TOP, BOTTOM = 80, 24, 48, 56
COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's, which people with any colour vision tell apart."""
LABELLED: Final = 8
_SMALLEST_DOT, _LARGEST_DOT = 3.0, 12.0


@dataclass(frozen=True, slots=True)
class _Scale:
    """A logarithmic axis over whole decades, from `low` to `high` (exponents of ten)."""

    low: int
    high: int
    begin: float
    end: float

    def at(self, value: float) -> float:
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return self.begin + share * (self.end - self.begin)


def roofline_svg(measured: Sequence[Measured]) -> str:
    """The picture of everything that has an intensity; empty axes where nothing has."""
    dots = [(one, x, y) for one in measured if (x := one.intensity) and (y := one.flop_per_s)]
    roofs = list(dict.fromkeys(one.roof for one, _, _ in dots))
    ridges = [roof.ridge for roof in roofs if roof.ridge is not None]
    peaks = [roof.flop_per_s for roof in roofs if roof.flop_per_s is not None]
    across = _scale([x for _, x, _ in dots] + ridges, LEFT, WIDTH - RIGHT)
    up = _scale([y for _, _, y in dots] + peaks, HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}">',
        '<g font-family="sans-serif" font-size="12">',
        "<title>Roofline</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        *_axes(across, up),
        *(
            line
            for number, roof in enumerate(roofs)
            for line in _roof(roof, across, up, COLOURS[number % len(COLOURS)], number)
        ),
        *_dots(dots, roofs, across, up),
        "</g>",
        "</svg>\n",
    ]
    return "\n".join(parts)


def _scale(values: Sequence[float], begin: float, end: float) -> _Scale:
    low = math.floor(math.log10(min(values, default=1.0)) - 0.2)
    high = math.ceil(math.log10(max(values, default=10.0)) + 0.2)
    return _Scale(low, max(high, low + 1), begin, end)


def _axes(across: _Scale, up: _Scale) -> Iterator[str]:
    for decade in range(across.low, across.high + 1):
        x = across.at(10.0**decade)
        yield f'<path d="M{x:.1f} {up.begin:.1f}V{up.end:.1f}" stroke="#dddddd"/>'
        yield _text(x, up.begin + 18, f"{10.0**decade:g}", "middle")
    for decade in range(up.low, up.high + 1):
        y = up.at(10.0**decade)
        yield f'<path d="M{across.begin:.1f} {y:.1f}H{across.end:.1f}" stroke="#dddddd"/>'
        yield _text(across.begin - 8, y + 4, _flop(10.0**decade), "end")
    yield _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, "FLOP per byte of DRAM traffic", "middle")
    yield _text(LEFT, 24, "Achieved FLOP/s", "start")


def _roof(roof: Roof, across: _Scale, up: _Scale, colour: str, number: int) -> Iterator[str]:
    if roof.ridge is None or roof.flop_per_s is None or roof.bytes_per_s is None:
        return
    # where the slope enters the picture: at its left edge or at its foot
    first = max(10.0**across.low, 10.0**up.low / roof.bytes_per_s)
    points = [
        (first, first * roof.bytes_per_s),
        (roof.ridge, roof.flop_per_s),
        (10.0**across.high, roof.flop_per_s),
    ]
    path = " ".join(f"{across.at(x):.1f},{up.at(y):.1f}" for x, y in points)
    yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
    label = f"{roof.name}: {_flop(roof.flop_per_s)}/s, {roof.bytes_per_s / 1e9:,.0f} GB/s"
    yield _text(WIDTH - RIGHT, 24 + 14 * number, label, "end", colour)


def _dots(
    dots: Sequence[tuple[Measured, float, float]],
    roofs: Sequence[Roof],
    across: _Scale,
    up: _Scale,
) -> Iterator[str]:
    longest = max((one.duration_ns for one, _, _ in dots), default=1)
    by_time = sorted(dots, key=lambda dot: -dot[0].duration_ns)
    for place, (one, intensity, rate) in enumerate(by_time):
        colour = COLOURS[roofs.index(one.roof) % len(COLOURS)]
        x, y = across.at(intensity), up.at(rate)
        radius = max(_SMALLEST_DOT, _LARGEST_DOT * math.sqrt(one.duration_ns / longest))
        yield (
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{colour}" '
            f'fill-opacity="0.6" stroke="{colour}"><title>{_figures(one)}</title></circle>'
        )
        if place < LABELLED:
            short = one.name if len(one.name) <= 40 else f"{one.name[:39]}…"
            is_right = x > WIDTH * 2 / 3
            offset = -radius - 3 if is_right else radius + 3
            yield _text(x + offset, y + 4, short, "end" if is_right else "start")


def _figures(one: Measured) -> str:
    lines = [one.name, f"{one.calls} x, {one.duration_ns / 1e6:,.3f} ms in all"]
    if one.intensity is not None and one.flop_per_s is not None:
        lines.append(f"{one.intensity:,.3g} FLOP/byte, {_flop(one.flop_per_s)}/s")
    if one.of_attainable is not None:
        lines.append(f"{100 * one.of_attainable:.1f} % of attainable, bound by {one.bound}")
    return "\n".join(map(xml_text, lines))


def _text(x: float, y: float, text: str, anchor: str, colour: str = "#333333") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} fill="{colour}">{xml_text(text)}</text>'


def _flop(value: float) -> str:
    for size, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:,.4g} {letter}FLOP"
    return f"{value:,.4g} FLOP"
