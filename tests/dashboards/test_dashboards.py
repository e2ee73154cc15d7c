"""Dashboards: in step with their source, and no query names what the catalogue does not have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from dashboards.boards import BOARDS
from dashboards.panel import Board
from tests.promql import TARGET, declared, labels_of, undeclared
from tests.queries import filled, queries

ALERTS = frozenset({"alertname", "alertstate", "severity"}) | TARGET
"""What Prometheus writes about its alerts."""


def committed(repository: Path, board: Board) -> dict[str, Any]:
    text = (repository / "dashboards/grafana" / f"{board.name}.json").read_text()
    made: dict[str, Any] = json.loads(text)
    return made


@pytest.mark.needs_module("grafana_foundation_sdk")
def test_every_file_is_in_step() -> None:
    """What is committed is what the source makes today."""
    from dashboards.__main__ import main  # noqa: PLC0415 - the SDK wants Python 3.11

    assert main(["--check"]) == 0


def members_of(document: Any) -> dict[Any, Any] | None:
    """Of an object or a list its parts by name or place."""
    members: Any = document
    if isinstance(document, list):
        return {place: members[place] for place in range(len(members))}
    return members if isinstance(document, dict) else None


@pytest.mark.needs_module("grafana_foundation_sdk")
def test_grafanas_models_know_every_word(repository: Path) -> None:
    """Read by the SDK's models of Grafana 10.1, a file is as it was: no word is unknown to them."""
    from grafana_foundation_sdk.cog.encoder import JSONEncoder  # noqa: PLC0415 - wants Python 3.11
    from grafana_foundation_sdk.cog.plugins import register_default_plugins  # noqa: PLC0415
    from grafana_foundation_sdk.models.dashboard import Dashboard  # noqa: PLC0415

    def unknown(written: Any, read: Any, where: str) -> list[str]:
        """What one has and the other has not; the models add empty objects."""
        one, other = members_of(written), members_of(read)
        if one is None or other is None:
            return [] if written == read else [where]
        names = [name for name in {**other, **one} if name in one or other[name] != {}]
        return [
            each
            for name in names
            for each in unknown(one.get(name), other.get(name), f"{where}/{name}")
        ]

    register_default_plugins()
    for board in BOARDS:
        made = committed(repository, board)
        made["panels"][1]["gridPlace"] = 1
        assert None not in [panel.get("options", {}) for panel in made["panels"]]
        read = json.loads(JSONEncoder().encode(Dashboard.from_json(made)))
        assert unknown(made, read, board.name) == [f"{board.name}/panels/1/gridPlace"]


def test_no_file_is_left_over(repository: Path) -> None:
    """Each file is a dashboard of the source; none outlives it."""
    found = {path.name for path in (repository / "dashboards/grafana").iterdir()}
    assert found == {f"{board.name}.json" for board in BOARDS}
    assert len(BOARDS) == 7


@pytest.mark.parametrize("currency", ["usd", "eur"])
@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_queries_name_only_what_the_catalogue_has(
    repository: Path, board: Board, currency: str
) -> None:
    """A family or a label that is renamed fails here, not as an empty picture."""
    known = declared(currency) | {"ALERTS": ALERTS}
    found = {
        f"{where}: {problem}"
        for where, expression in queries(committed(repository, board))
        for problem in undeclared(filled(expression, currency=currency), known)
    }
    assert found == set()


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_legends_name_labels_that_are_there(board: Board) -> None:
    """A legend of a label that its query has summed away would be empty."""
    known = declared("usd")
    for panel in board.panels:
        for query in panel.queries:
            labels = {part.partition("}}")[0] for part in query.legend.split("{{")[1:]}
            if labels:
                there = labels_of(filled(query.expr), known)
                assert labels <= there, f"{panel.title}: {query.legend}"


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_panels_lie_beside_each_other(repository: Path, board: Board) -> None:
    """No panel covers another or leaves the grid of 24; ids are unique."""
    panels = committed(repository, board)["panels"]
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_titles_are_unique() -> None:
    """A panel that is listed by name is found by it."""
    for board in BOARDS:
        for row in board.rows:
            titles = [panel.title for panel in row.panels]
            assert len(set(titles)) == len(titles)
    assert len({board.name for board in BOARDS}) == len(BOARDS)


@pytest.mark.parametrize(
    ("expression", "labels"),
    [
        ("sum by (instance) (rate(up[5m]))", {"instance"}),
        ("sum without (job) (up)", {"instance"}),
        ("topk(3, sum(up)) * 2", set[str]()),
        ("-(sum by (job) (up) / ignoring (a) up)", {"job"}),
        ("1 - topk(1, up)", {"job", "instance"}),
        ('label_replace(sum(up), "a", "$1", "job", "(.*)")', {"a"}),
    ],
)
def test_labels_of_a_result(expression: str, labels: set[str]) -> None:
    """The check of legends knows what an expression leaves."""
    assert labels_of(expression, declared("usd")) == labels
