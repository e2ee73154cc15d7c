"""What a person does with a flame graph, in a real browser; and names that mean harm."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from tests.browser import Browser
from tests.profiles.stacking import stacks_of

from apportion.profiles.flame_frames import BOTH
from apportion.profiles.flame_page import flame_page
from apportion.profiles.flame_svg import flame_svg
from apportion.profiles.flame_tree import flame_tree
from apportion.profiles.stack_difference import difference
from apportion.profiles.weight import TIME, cost

HOSTILE = (
    '</script><script>document.title="owned"</script>'
    "<img src=x onerror=\"document.title='owned'\"><!--\u2028"
)
STACKS = stacks_of(
    [
        ("train;forward;matmul", (3_000_000_000_001, 30)),
        (f"train;forward;{HOSTILE}", (1_000_000_000_000, 10)),
        ("train;optimizer", (4_000_000_000_000, 60)),
        ("[allocated_idle]", (2_000_000_000_000, 0)),
    ],
    (cost("USD"), TIME),
)


def place(browser: Browser, name: str) -> Any:
    """Where a frame is on the page: x, y of its middle and its width; None where it is not."""
    return browser.value(
        f"""(() => {{
            const found = [...document.querySelectorAll(".frame")]
                .find((one) => one.textContent.startsWith({name!r}));
            if (!found) return null;
            const box = found.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2, box.width];
        }})()"""
    )


@pytest.mark.needs_program("chromium-headless-shell")
def test_page_in_a_browser(tmp_path: Path) -> None:
    """Tooltip, zoom and search work; nothing is fetched; a hostile name is text and no more."""
    page = tmp_path / "flame.html"
    page.write_text(flame_page(flame_tree(STACKS, 0), f"Title {HOSTILE}"), encoding="utf-8")

    with Browser(tmp_path / "profile") as browser:
        browser.open(page)

        # every frame is there, the hostile one by its whole name
        assert browser.value("document.querySelectorAll('.frame').length") == 7
        assert browser.value("document.querySelectorAll('img').length") == 0
        assert place(browser, HOSTILE[:20]) is not None
        assert browser.value("document.title") == f"Title {HOSTILE}"

        # tooltip: cost to the last unit, share, the other weight
        x, y, whole_width = place(browser, "matmul")
        browser.mouse("mouseMoved", x, y)
        told = browser.value("document.getElementById('tooltip').innerText")
        assert told.split("\n") == [
            "matmul",
            "3.000000000001 USD (30.00 % of all)",
            "time 30 ns",
        ]
        assert browser.value("document.getElementById('tooltip').hidden") is False

        # zoom in, and out again
        browser.click(*place(browser, "forward")[:2])
        assert place(browser, "optimizer") is None
        assert place(browser, "train") is not None
        assert place(browser, "matmul")[2] > 2 * whole_width
        browser.value("document.getElementById('reset').click()")
        assert place(browser, "matmul")[2] == pytest.approx(whole_width)

        # search: what is found is marked and its share said, once for what lies in itself
        browser.value("document.getElementById('search').focus()")
        browser.type("MATMUL")
        assert (
            browser.value("document.getElementById('found').textContent")
            == "1 frames found, 30.00 % of all"
        )
        assert browser.value("document.querySelectorAll('.found').length") == 1
        browser.value("document.getElementById('search').select()")
        browser.type("r")
        found = browser.value("document.getElementById('found').textContent")
        assert found == "4 frames found, 80.00 % of all"

        asked = [
            one["params"]["request"]["url"]
            for one in browser.events
            if one.get("method") == "Network.requestWillBeSent"
        ]
        said = [one for one in browser.events if one.get("method") == "Log.entryAdded"]
        assert asked == [page.as_uri()]
        assert said == []


@pytest.mark.parametrize("is_difference", [False, True])
def test_picture_is_whole_and_harmless(is_difference: bool) -> None:
    """It parses, has no script, says every figure, and its words are the names' own."""
    stacks = difference(STACKS, STACKS, None) if is_difference else STACKS
    tree = flame_tree(stacks, BOTH if is_difference else 0)

    root = ET.fromstring(flame_svg(tree, HOSTILE, is_difference=is_difference))

    kinds = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert kinds == {"svg", "title", "rect", "g", "text"}
    told = [one.text or "" for one in root.iter("{http://www.w3.org/2000/svg}title")]
    assert len(told) == 1 + 7
    figure = "3.000000000001 USD" if is_difference else "3.000000000001 USD (30.00 % of all)"
    assert any(one.startswith("matmul") and figure in one for one in told)
    assert any(one.startswith(HOSTILE.replace("\u2028", "�")) for one in told)


def test_page_lets_nothing_in() -> None:
    """Its policy names one script and one style by their hashes, and no place to fetch from."""
    page = flame_page(flame_tree(STACKS, 0), "t")

    policy = page.partition('Content-Security-Policy" content="')[2].partition('"')[0]
    kinds = [part.split()[0] for part in policy.split("; ")]
    assert policy.startswith("default-src 'none'; ")
    assert kinds == ["default-src", "script-src", "style-src"]
    assert "unsafe" not in policy
    assert page.count("<script") == 2
    assert "</script><script>document" not in page
