"""kill -9 of workloads at random moments."""

from __future__ import annotations

import random
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from tests.faults.book import Book, Row
from tests.faults.node import Node, eventually, sleep_until

from apportion.core.category import Category, SpanStatus

WORKLOADS = 5


@pytest.mark.parametrize("node", [WORKLOADS], indirect=True)
def test_what_a_killed_trainer_had_open_is_lost(node: Node) -> None:
    """Finished steps are there once, the open one ends as lost, and its cost moves to `lost`."""
    agent = node.agent().until_ready()
    moments = random.Random(11)
    logs = [node.root / f"log-{index}" for index in range(WORKLOADS)]
    trainers = [
        node.workload("training", f"train-{index}", log, index, index)
        for index, log in enumerate(logs)
    ]
    for log in logs:
        eventually(partial(has_begun, log), "the first step")
    agent.eventually(
        lambda: agent.door.value("apportion_rings_attached") == WORKLOADS, "all rings are found"
    )
    kills = sorted((moments.uniform(1.0, 6.0), index) for index in range(WORKLOADS))
    start_s = time.monotonic()
    for moment_s, index in kills:
        sleep_until(start_s + moment_s)
        trainers[index].kill()

    agent.eventually(
        lambda: agent.door.value("apportion_rings_attached") == 0, "all rings are read to their end"
    )
    agent.eventually(agent.book.all_charged, "every span is charged to its end")
    agent.eventually(lambda: not still_direct(agent.book), "what was open is lost")
    assert agent.stop() == 0, agent.log

    book = agent.book
    lost = 0
    for index, log in enumerate(logs):
        lost += check_one(book, f"train-{index}", log)
    assert lost > 0, "no kill met an open step: choose other moments"
    assert node.audit(book) == []
    assert book.direct_faults() == []
    assert book.device_ns()[Category.LOST] > 0


def has_begun(log: Path) -> bool:
    """Whether a trainer is in its first step, which is after its ring was made."""
    return log.exists() and "started" in log.read_text()


def still_direct(book: Book) -> list[Row]:
    """Spans that were open when their process died, and whose cost is not moved yet."""
    return book.rows(
        "select ring_key, number from charge join span using (agent_id, ring_key, number) "
        "where span.status = ? and category = ? "
        "group by ring_key, number having sum(device_ns) != 0",
        int(SpanStatus.LOST),
        int(Category.DIRECT),
    )


def check_one(book: Book, workload: str, log: Path) -> int:
    """Compare one trainer's log with the ledger; how many lost steps it has (0 or 1)."""
    said = [line.split() for line in log.read_text().splitlines()]
    finished = [int(number) for word, number in said if word == "finished"]
    started = [int(number) for word, number in said if word == "started"]
    rows = book.rows(
        "select step, status, ring_key, number, end_ns - start_ns from span "
        "join entity using (agent_id, entity_key) where workload = ?",
        workload,
    )
    ended = Counter(step for step, status, *_ in rows if status != int(SpanStatus.LOST))
    lost = [(step, key) for step, status, *key in rows if status == int(SpanStatus.LOST)]
    # Between the last stores and the log's line a kill may hit: then one more has ended.
    assert ended in (Counter(finished), Counter([*finished, len(finished)]))
    steps = [*ended.elements(), *(step for step, _ in lost)]
    assert set(started) <= set(steps)
    assert len(steps) == len(set(steps)) <= len(started) + 1
    for _, (ring, number, length_ns) in lost:
        amounts: Counter[Category] = Counter()
        for category, device_ns in book.rows(
            "select category, device_ns from charge where ring_key = ? and number = ?", ring, number
        ):
            amounts[Category(category)] += device_ns
        assert amounts[Category.DIRECT] == 0
        # It ends when its process was last seen alive: when it began, if nobody looked since.
        assert amounts[Category.LOST] == length_ns
    return len(lost)
