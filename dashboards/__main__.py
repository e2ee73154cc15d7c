"""Writes the dashboards as Grafana's JSON, their layouts as SVG, and the page that lists them.

    python -m dashboards [--check] [--output FOLDER]

With `--check` nothing is written; the exit status is 1 where a file is not in step.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from dashboards import board, layout
from dashboards.boards import BOARDS

REPOSITORY: Final = Path(__file__).parents[1]
_PAGE: Final = "docs/dashboards.md"
_MARK: Final = "<!-- From here on made by `make dashboards`; do not edit. -->\n"


def files(page: str) -> dict[str, str]:
    """The text of each file, by its path; `page` is the page as it is, whose head is kept."""
    made = {f"dashboards/grafana/{each.name}.json": board.text(each) for each in BOARDS}
    made |= {f"docs/dashboards/{each.name}.svg": layout.picture(each) for each in BOARDS}
    head, _, _ = page.partition(_MARK)
    return {**made, _PAGE: head + _MARK + _listing()}


def _listing() -> str:
    lines: list[str] = []
    for each in BOARDS:
        lines += ["", f"## {each.title}", "", each.description, ""]
        lines += [f"![Layout of {each.title}](dashboards/{each.name}.svg)", ""]
        lines += ["| panel | shows | needs |", "| --- | --- | --- |"]
        for row in each.rows:
            for panel in row.panels:
                lines.append(
                    f"| {row.title} / {panel.title} | {panel.description} | {panel.needs} |"
                )
    return "\n".join([*lines, ""])


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files, or check them; 0 where they are in step."""
    parser = argparse.ArgumentParser(prog="python -m dashboards")
    parser.add_argument("--check", action="store_true", help="only compare")
    parser.add_argument("--output", type=Path, default=REPOSITORY, metavar="FOLDER")
    options = parser.parse_args(arguments)
    output: Path = options.output
    stale = 0
    for name, text in files((REPOSITORY / _PAGE).read_text(encoding="utf-8")).items():
        path = output / name
        if not options.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            sys.stderr.write(f"{name} is not in step; run: make dashboards\n")
            stale = 1
    return stale


if __name__ == "__main__":
    raise SystemExit(main())
