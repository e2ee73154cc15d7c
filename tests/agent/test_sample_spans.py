"""Samples joined with spans: by process, thread and time, and no label that is not certain."""

from __future__ import annotations

import json
from random import Random
from uuid import UUID

from tests.profiles.stacking import stacks_of

from apportion.agent.sample_spans import CATEGORY, MODEL, PHASE, REQUEST, TENANT, with_spans
from apportion.core.category import Category, Phase, SpanKind
from apportion.core.units import NS_PER_SECOND
from apportion.cost.ledger.ledger import Ledger
from apportion.cost.testing import LedgerBuilder
from apportion.profiles.py_spy import PROCESS
from apportion.profiles.py_spy_events import AT, SEEN, THREAD
from apportion.profiles.rank_stacks import STEP
from apportion.profiles.stacks import Stacks

BOOT = "0f" * 16
ANCHOR_NS = 1_000_000
PID = 4711


def seen(*samples: tuple[int, int], pid: int = PID, boot: str = BOOT) -> Stacks:
    """Samples at (ns of the monotonic clock, thread)."""
    stacks = stacks_of([(f"f{number}", 1) for number in range(len(samples))])
    stacks = stacks.labelled(AT, [str(at_ns) for at_ns, _ in samples])
    stacks = stacks.labelled(THREAD, [str(thread) for _, thread in samples])
    return stacks.labelled(PROCESS, [f"{boot}/{pid}"] * len(samples))


def span(
    number: int,
    start_ns: int,
    end_ns: int,
    kind: SpanKind,
    *,
    parent: int = 0,
    phase: Phase = Phase.NONE,
    entity: int = 1,
    first_token_ns: int | None = None,
    step: int | None = None,
    thread: int = 5,
    request: str | None = None,
) -> tuple[object, ...]:
    """A row of the ledger; times are of the monotonic clock."""
    head = (1, number, number, parent, int(kind), 0, int(phase), 0, entity, None)
    first = None if first_token_ns is None else first_token_ns + ANCHOR_NS
    times = (start_ns + ANCHOR_NS, None, first, end_ns + ANCHOR_NS)
    return (*head, *times, step, *[None] * 7, thread, None, request, 0, end_ns + ANCHOR_NS, None)


def book(*spans: tuple[object, ...]) -> Ledger:
    """A ledger with one process and its spans."""
    builder = LedgerBuilder()
    builder.entity(1, "w", tenant="acme", model="m")
    builder.entity(2, "w", tenant="umbrella", model="m")
    builder.batch.insert("boot", [(BOOT, ANCHOR_NS, 0)])
    identity = json.dumps({"pid": PID, "workload": "w"})
    builder.batch.insert("ring", [(1, "1" * 32, str(UUID(BOOT)), identity, 0, None)])
    builder.batch.insert("span", list(spans))
    return builder.ledger()


TRAINER = (
    span(1, 100, 200, SpanKind.STEP, step=7),
    span(2, 110, 150, SpanKind.PHASE, parent=1, phase=Phase.FORWARD),
    span(3, 120, 130, SpanKind.PHASE, parent=2, phase=Phase.COMMUNICATION),
    span(4, 220, 300, SpanKind.STEP, step=8),
    span(5, 300, 320, SpanKind.CHECKPOINT),
)


def test_a_sample_is_in_the_step_of_its_process_and_time() -> None:
    """Whatever the thread, because autograd has its own; the innermost phase; between, none."""
    samples = seen((105, 5), (115, 6), (125, 5), (200, 5), (220, 9), (299, 5), (310, 5), (99, 5))
    with book(*TRAINER) as ledger:
        found = with_spans(samples, ledger)

    assert found.label(STEP) == ["7", "7", "7", None, "8", "8", None, None]
    phases = [None, "forward", "communication", *[None] * 5]
    assert found.label(PHASE) == phases
    direct, none = Category.DIRECT.label, None
    assert found.label(CATEGORY) == [
        *[direct] * 3,
        none,
        direct,
        direct,
        Category.CHECKPOINT.label,
        none,
    ]
    assert found.values.tolist() == samples.values.tolist()


def test_other_processes_are_not_joined() -> None:
    """Another pid, another boot, and stacks that do not say when: they stay as they are."""
    with book(*TRAINER) as ledger:
        for other in (seen((105, 5), pid=1), seen((105, 5), boot="ab" * 16), stacks_of([("a", 1)])):
            assert with_spans(other, ledger).labels.keys() == other.labels.keys()


def test_a_sample_that_was_made_up_for_does_what_it_was_seen_to_do() -> None:
    """Its step goes by its own time; its phase and category by when its stack was seen."""
    samples = seen((125, 5), (210, 5), (250, 5)).labelled(SEEN, ["115"] * 3)
    with book(*TRAINER) as ledger:
        found = with_spans(samples, ledger)

    assert found.label(STEP) == ["7", "7", "8"]
    assert found.label(PHASE) == ["forward"] * 3
    assert found.label(CATEGORY) == ["direct"] * 3


def test_requests_are_told_apart_by_thread() -> None:
    """One request a thread is certain, prefill or decode by the first token."""
    requests = (
        span(1, 100, 200, SpanKind.REQUEST, request="r1", first_token_ns=150, thread=5),
        span(2, 100, 200, SpanKind.REQUEST, request="r2", thread=6, entity=2),
    )
    with book(*requests) as ledger:
        found = with_spans(seen((120, 5), (150, 5), (120, 6), (120, 7), (250, 5)), ledger)

    assert found.label(REQUEST) == ["r1", "r1", "r2", None, None]
    assert found.label(PHASE) == ["prefill", "decode", None, None, None]
    assert found.label(TENANT) == ["acme", "acme", "umbrella", None, None]
    # a worker thread serves whichever request; it is direct, but nobody's in particular
    assert found.label(CATEGORY) == [*["direct"] * 4, None]


def test_requests_of_one_thread_share_what_they_agree_on() -> None:
    """An event loop: which request is unknown, whose tenant may be known."""
    requests = (
        span(1, 100, 200, SpanKind.REQUEST, request="r1"),
        span(2, 110, 190, SpanKind.REQUEST, request="r2"),
        span(3, 150, 160, SpanKind.REQUEST, request="r3", entity=2),
    )
    with book(*requests) as ledger:
        found = with_spans(seen((105, 5), (120, 5), (155, 5)), ledger)

    assert found.label(REQUEST) == ["r1", None, None]
    assert found.label(TENANT) == ["acme", "acme", None]
    assert found.label(MODEL) == ["m"] * 3


def test_many_steps_by_the_slow_way() -> None:
    """Each instant has the step that holds it, and those in no step have none; bursts far apart."""
    chance = Random(1)
    steps: list[tuple[int, int, int]] = []
    clock_ns = 0
    for number in range(1, 61):
        pause_ns = 120 * NS_PER_SECOND if number % 20 == 0 else chance.randint(0, 5)
        start_ns = clock_ns + pause_ns
        clock_ns = start_ns + chance.randint(1, 9)
        steps.append((number, start_ns, clock_ns))
    instants = [start + chance.randint(-3, 9) for _, start, _ in steps for _ in range(3)]
    chance.shuffle(instants)
    rows = (span(number, begin, end, SpanKind.STEP, step=number) for number, begin, end in steps)
    with book(*rows) as ledger:
        found = with_spans(seen(*((at_ns, 5) for at_ns in instants)), ledger)

    expected = [
        next((str(number) for number, start, end in steps if start <= at_ns < end), None)
        for at_ns in instants
    ]
    assert found.label(STEP) == expected


def test_spans_that_hold_each_other_end() -> None:
    """A hostile ring's circle of parents hangs nobody."""
    circle = (
        span(1, 100, 200, SpanKind.STEP, step=7),
        span(2, 100, 200, SpanKind.PHASE, parent=3, phase=Phase.FORWARD),
        span(3, 100, 200, SpanKind.PHASE, parent=2, phase=Phase.BACKWARD),
    )
    with book(*circle) as ledger:
        found = with_spans(seen((150, 5)), ledger)

    assert (found.label(STEP), found.label(PHASE)) == (["7"], [None])
