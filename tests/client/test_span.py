"""What a span records, however it is started, ended, nested or misused."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.client.decoded import only, request_id

from apportion import client
from apportion.client import layout
from apportion.client.nesting import in_context

STATUS = {number: name for name, number in layout.STATUSES.items()}
KIND = {number: name for name, number in layout.KINDS.items()}


def summary(directory: Path) -> list[tuple[str, str, int]]:
    """Kind, status and parent of each record."""
    return [
        (KIND[each["kind"]], STATUS[each["status"]], each["parent"]) for each in records(directory)
    ]


def records(directory: Path) -> list[dict[str, Any]]:
    """The records of the one ring."""
    return only(directory).records


def test_times_are_in_order(directory: Path) -> None:
    """Arrival, start, scheduled, first token and end are monotonic times in this order."""
    arrival_ns = time.monotonic_ns()
    with client.request("r", arrival_ns=arrival_ns) as span:
        span.scheduled()
        span.first_token()
    (record,) = records(directory)
    names = ("arrival_ns", "start_ns", "scheduled_ns", "first_token_ns", "end_ns")
    times = [record[name] for name in names]
    assert sorted(times) == times
    assert arrival_ns == times[0]
    assert times[-1] <= time.monotonic_ns()


def test_only_the_first_mark_counts(directory: Path) -> None:
    """A request that is scheduled again after a preemption keeps its first time."""
    with client.request("r") as span:
        span.scheduled()
        span.first_token()
        (slot,) = only(directory).open_slots
        span.scheduled()
        span.first_token()
    (record,) = records(directory)
    assert (slot["scheduled_ns"], slot["first_token_ns"]) == (
        record["scheduled_ns"],
        record["first_token_ns"],
    )


def test_steps_take_marks_too(directory: Path) -> None:
    """A mark on a span whose short record has no room for it is not lost."""
    with client.step(1) as first:
        first.scheduled()
    with client.step(2) as second:
        second.first_token()
    one, two = records(directory)
    assert one["scheduled_ns"] > 0
    assert two["first_token_ns"] > 0


def test_open_slot_while_it_runs(directory: Path) -> None:
    """The agent sees what runs, since when and for whom; nothing once it has ended."""
    for by_hand in (False, True):
        made = client.request("r", tenant="t", model="m")
        span = made.start() if by_hand else made.__enter__()
        found = only(directory)
        (slot,) = found.open_slots
        span.finish()
        record = records(directory)[-1]
        assert (record["start_ns"], record["number"], record["packed"] & 0xFF) == (
            slot["start_ns"],
            slot["number"],
            slot["packed"],
        )
        words = slot["words"]
        assert ("t", "m") == (found.words[words & 0xFFFFFFFF][1], found.words[words >> 32][1])
        assert [] == only(directory).open_slots


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError, "error"),
        (KeyboardInterrupt, "error"),
        (asyncio.CancelledError, "cancelled"),
        (GeneratorExit, "cancelled"),
    ],
)
def test_status_of_an_exception(directory: Path, error: type[BaseException], status: str) -> None:
    """The exception goes on, and every open span around it says how it ended."""
    with pytest.raises(error), client.evaluation(), client.step(1) as span, span.phase("forward"):
        raise error
    with pytest.raises(error), client.request("r"):
        raise error
    assert {status} == {STATUS[each["status"]] for each in records(directory)}
    assert 4 == len(records(directory))


@pytest.mark.parametrize("status", ["ok", "error", "cancelled"])
def test_finish_says_how(directory: Path, status: str) -> None:
    """Each status that a program may say is recorded."""
    client.request("r").start().finish(status)
    client.step(1).start().finish(status=status)
    assert [status, status] == [STATUS[each["status"]] for each in records(directory)]


@pytest.mark.parametrize("status", ["lost", "done", "", None, ["ok"]])
def test_other_statuses_are_errors(directory: Path, status: Any) -> None:
    """`lost` is the agent's word, and no other is known: the span ends, as an error, counted."""
    client.request("r").start().finish(status)
    assert [("request", "error", 0)] == summary(directory)
    assert {"status_unknown": 1} == client.counts()


def test_finishing_twice_is_harmless(directory: Path) -> None:
    """However often and wherever a span is ended, it has one record."""
    with client.step(1) as span:
        span.finish("error")
        span.finish()
    span.finish()
    request = client.request("r").start()
    threads = [threading.Thread(target=request.finish) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [("step", "error", 0), ("request", "ok", 0)] == summary(directory)
    assert {} == client.counts()


def test_with_on_a_started_span_adopts_it(directory: Path) -> None:
    """`with span.start()` is one span, current inside the block, ended by it."""
    with client.request("r").start() as span:
        assert span is client.current_span()
        with client.step(1):
            pass
    assert [("step", "ok", 1), ("request", "ok", 0)] == summary(directory)
    assert not client.current_span()


def test_a_span_is_used_once(directory: Path) -> None:
    """A span that was ended is not opened again, and says so in the counts."""
    span = client.step(1)
    with span:
        pass
    with span:
        pass
    span.start().finish()
    assert [("step", "ok", 0)] == summary(directory)
    assert {"span_reused": 2} == client.counts()


def test_a_dropped_span_ends(directory: Path) -> None:
    """A started span that nobody holds cannot be ended any more: it must not run for ever."""
    client.request("r").start()
    gc.collect()
    assert [("request", "cancelled", 0)] == summary(directory)
    assert [] == only(directory).open_slots
    assert {"span_dropped": 1} == client.counts()


def test_nesting_names_the_parent(directory: Path) -> None:
    """A span in a span has its number as parent, phases theirs, and siblings do not nest."""
    with client.step(1) as outer:
        with client.request("a"), client.request("b") as inner:
            assert inner is client.current_span()
        with client.request("c").start() as started, started.phase("decode") as phase:
            phase.phase("constrain").start().finish()
        assert outer is client.current_span()
    with client.step(2):
        pass
    numbers = {request_id(each["request_id"])[0]: each["number"] for each in records(directory)}
    found = [(KIND[each["kind"]], each["number"], each["parent"]) for each in records(directory)]
    step = found[-2][1]
    decode = found[3][1]
    assert [
        ("request", numbers["b"], numbers["a"]),
        ("request", numbers["a"], step),
        ("phase", found[2][1], decode),
        ("phase", decode, numbers["c"]),
        ("request", numbers["c"], step),
        ("step", step, 0),
        ("step", found[-1][1], 0),
    ] == found


def test_ended_out_of_order(directory: Path) -> None:
    """A span whose outer one was ended first belongs to what is still open around it."""
    with client.evaluation(), client.step(1) as middle:
        middle.finish()
        with client.request("r"):
            pass
        assert client.current_span()
    kinds = summary(directory)
    assert [("step", "ok", 1), ("request", "ok", 1), ("evaluation", "ok", 0)] == kinds


def test_a_block_that_is_never_left(directory: Path) -> None:
    """A span that was entered by hand and ended by `finish()` leaves nothing behind."""
    client.evaluation().__enter__().finish()
    for number in (1, 2):
        with client.step(number):
            pass
    assert in_context.get() is None
    assert [("evaluation", "ok", 0), ("step", "ok", 0), ("step", "ok", 0)] == summary(directory)


@pytest.mark.parametrize(
    ("make", "name"), [(client.checkpoint, "checkpoint"), (client.evaluation, "evaluation")]
)
def test_checkpoint_and_evaluation(directory: Path, make: Any, name: str) -> None:
    """Outside a step they are roots of their own; inside one, phases of it."""
    with make():
        pass
    with client.step(1), make():
        pass
    own, part, _ = records(directory)
    assert (layout.KINDS[name], 0, 0) == (own["kind"], own["phase"], own["parent"])
    assert (layout.KINDS["phase"], layout.PHASES[name]) == (part["kind"], part["phase"])
    assert part["parent"] > 0


def test_a_checkpoint_says_which_step_it_holds(directory: Path) -> None:
    """Its number is in the record, outside a step and inside one; without one, none is."""
    with client.checkpoint(40):
        pass
    with client.step(41), client.checkpoint(41):
        pass
    with client.checkpoint():
        pass
    assert [40, 41, 41, layout.ABSENT] == [each["step"] for each in records(directory)]


@pytest.mark.parametrize("name", layout.PHASES)
def test_each_phase(directory: Path, name: str) -> None:
    """Every phase of the closed set is recorded as itself, by `with` and by hand."""
    with client.step(1) as span:
        with span.phase(name):
            pass
        span.phase(name).start().finish("error")
    one, two, _ = records(directory)
    assert [layout.PHASES[name]] * 2 == [one["phase"], two["phase"]]
    assert ["ok", "error"] == [STATUS[each["status"]] for each in (one, two)]
    assert one["start_ns"] <= one["end_ns"] <= two["start_ns"]


@pytest.mark.parametrize("name", ["lunch", "", None, 7, []])
def test_unknown_phases_measure_nothing(directory: Path, name: Any) -> None:
    """A name outside the set is ignored and counted; the span around it goes on."""
    with client.step(1) as span, span.phase(name) as phase, phase.phase("forward"):
        pass
    assert [("step", "ok", 0)] == summary(directory)
    assert {"phase_ignored": 1} == client.counts()


def test_what_is_not_open_takes_nothing(directory: Path) -> None:
    """Before its start and after its end a span takes no phase, mark or counter."""
    span = client.request("r")
    for _ in range(2):
        span.scheduled()
        span.first_token()
        span.add(input_tokens=5)
        with span.phase("decode"):
            pass
        with span:
            pass
    client.step(1).finish()
    (record,) = records(directory)
    assert (0, 0, layout.ABSENT) == (
        record["scheduled_ns"],
        record["first_token_ns"],
        record["input_tokens"],
    )
    assert {"not_open": 9, "span_reused": 1} == client.counts()


def test_decorators(directory: Path) -> None:
    """Each call of a decorated function, coroutine or generator is a span; its value comes back."""

    @client.request("sync", tenant="t", traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01")
    def plain(number: int) -> int:
        """Doubles."""
        assert client.current_span()
        return number * 2

    @client.step(3)
    async def coroutine(number: int) -> int:
        await asyncio.sleep(0)
        return number * 2

    @client.evaluation()
    def generator() -> Iterator[int]:
        yield 1
        yield 2

    @client.checkpoint()
    async def stream() -> AsyncIterator[int]:
        yield 1
        await asyncio.sleep(0)
        yield 2

    async def both() -> tuple[int, list[int]]:
        return await coroutine(4), [item async for item in stream()]

    assert "Doubles." == plain.__doc__
    assert [2, 4] == [plain(1), plain(2)]
    assert (8, [1, 2]) == asyncio.run(both())
    assert [1, 2] == list(generator())
    found = records(directory)
    assert ["request", "request", "step", "checkpoint", "evaluation"] == [
        KIND[each["kind"]] for each in found
    ]
    assert [("sync", False)] * 2 == [request_id(each["request_id"]) for each in found[:2]]
    assert bytes.fromhex("aa" * 16) == found[1]["trace_id"]
    assert 3 == found[2]["step"]
    assert len({each["number"] for each in found}) == 5


def test_a_decorator_makes_no_ring(directory: Path) -> None:
    """Decorating at import, before a fork, makes no file."""

    @client.request("r")
    def function() -> None:
        return

    assert [] == list(directory.iterdir())
    function()
    assert 1 == len(records(directory))


def test_a_generator_that_is_closed_early(directory: Path) -> None:
    """A stream that its reader leaves ends as cancelled."""

    @client.request("r")
    def stream() -> Iterator[int]:
        yield from range(10)

    items = stream()
    next(iter(items))
    del items
    gc.collect()
    assert [("request", "cancelled", 0)] == summary(directory)


@pytest.mark.parametrize("number", [0, 1, (1 << 30) - 1, 1 << 30, (1 << 53) - 1])
def test_step_numbers(directory: Path, number: int) -> None:
    """Any number below 2^53 is a step's."""
    with client.step(number):
        assert [number] == [slot["step"] for slot in only(directory).open_slots]
    assert [number] == [each["step"] for each in records(directory)]


@pytest.mark.parametrize("number", [-1, 1 << 53, 1 << 80, True, 1.0, "1", None])
def test_other_step_numbers_are_ignored(directory: Path, number: Any) -> None:
    """What is no plain int in range leaves a step without a number, and is counted."""
    with client.step(number):
        pass
    assert [layout.ABSENT] == [each["step"] for each in records(directory)]
    assert {"step_ignored": 1} == client.counts()


class Tensor:
    """A value that lives on a device: to look into it makes the program wait."""

    looked = 0

    def _look(self, *_: object) -> Any:
        Tensor.looked += 1
        raise RuntimeError("the device was synchronised")

    __bool__ = __int__ = __index__ = __float__ = __str__ = __repr__ = _look
    __eq__ = __lt__ = __le__ = __gt__ = __ge__ = __ne__ = __add__ = __radd__ = _look
    __hash__ = None  # type: ignore[assignment] # unhashable, like some


def test_nothing_looks_into_a_tensor(directory: Path) -> None:
    """Whatever is given as anything, it is not compared, converted or printed: it is ignored."""
    Tensor.looked = 0
    bad: Any = Tensor()
    client.init(
        workload=bad, run=bad, attempt=bad, rank=bad, world_size=bad, devices=bad, tags=bad,
        directory=directory, capacity=bad, resumed_from_step=bad,
    )  # fmt: skip
    with client.step(bad) as step:
        step.add(tokens=bad, input_tokens=bad, nonsense=bad)
        with step.phase(bad):
            pass
    with client.request(
        bad, tenant=bad, model=bad, adapter=bad, traceparent=bad, arrival_ns=bad
    ) as span:
        span.add(input_tokens=bad, output_tokens=bad)
        span.finish(bad)
    with client.request("r", tenant=bad):
        pass
    assert 0 == Tensor.looked
    assert 3 == len(records(directory))
    assert "internal_error" not in client.counts()
