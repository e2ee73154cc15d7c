"""The committed flame graph in money: its frames add up, and the page says the same amount."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import defaultdict
from decimal import Decimal
from pathlib import Path

SVG = "{http://www.w3.org/2000/svg}"


def test_the_picture_adds_up_to_the_ledgers_amount(repository: Path) -> None:
    """Workloads make the root, categories make each workload, to the unit; and so says the page."""
    root = ET.parse(repository / "docs" / "flames.svg").getroot()
    rows: dict[int, list[tuple[str, float, float, Decimal]]] = defaultdict(list)
    for group in root.iter(f"{SVG}g"):
        told, box = group.find(f"{SVG}title"), group.find(f"{SVG}rect")
        if told is not None and box is not None:
            name, figure, *_ = (told.text or "").split("\n")
            left, width = float(box.attrib["x"]), float(box.attrib["width"])
            amount = Decimal(figure.split()[0].replace(",", ""))
            rows[int(box.attrib["y"])].append((name, left, left + width, amount))
    (whole,), workloads, categories = (rows[y] for y in sorted(rows)[:3])

    assert sum(amount for *_, amount in workloads) == whole[-1]
    for name, left, right, amount in workloads:
        inside = [
            own for _, begin, end, own in categories if left - 0.02 < begin < end < right + 0.02
        ]
        assert sum(inside) == amount, name
    assert {"gpt-pretrain", "lm-server", "[nobody]"} <= {name for name, *_ in workloads}
    page = (repository / "docs" / "flamegraphs.md").read_text()
    said = re.search(r"is the ledger's amount: (\d+) x 10\^-12", page)
    assert said is not None
    assert Decimal(said[1]) / 10**12 == whole[-1]
    assert "SIMULATED" in (root.findtext(f"{SVG}title") or "")
