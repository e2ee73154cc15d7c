"""Data-parallel engines of one server: each request pays for the engine that it was in."""

from __future__ import annotations

from collections import Counter
from random import Random

import numpy as np
import pytest
from benchmarks.evaluation.engine import made_up
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.agent.pipeline.engines_oracle import EngineRun, seconds_by_engine
from tests.agent.pipeline.test_iterations import (
    Chooser,
    Run,
    Says,
    all_played,
    charged,
    due,
    methods,
    server_of,
    simulated,
)
from tests.agent.pipeline.test_request_needs import MODEL, PRICE
from tests.agent.pipeline.world import DOLLARS, SECOND, Process, Span, World

from apportion.agent.ingest import Identity
from apportion.agent.pipeline.tick import TickOutcome
from apportion.client import layout
from apportion.core.category import SpanKind
from apportion.core.device_facts import DeviceFacts
from apportion.cost.audit import audit
from apportion.cost.methods.counts import rebuilt
from apportion.cost.methods.model_catalogue import named_model
from apportion.cost.methods.names import Method
from apportion.cost.methods.roofline import Roofline
from apportion.cost.methods.shares import Busy
from apportion.cost.methods.trace import Iterations
from apportion.cost.methods.two_part import roofline_two_part


def parallel(**said: int) -> Identity:
    """A dense model on one device an engine, two engines, if not said otherwise."""
    found = dict.fromkeys(layout.PARALLEL_KEYS, 1) | {"first": 0, "engines": 2, "data": 2}
    found["here"] = said.get("engines", 2)
    return Identity(parallel=tuple((found | said).items()))


def says_engine(span: Span, engine: int) -> None:
    """As vLLM's plugin says it."""
    span.engine, span.flags = engine, layout.FLAG_ENGINE


def h100() -> Roofline:
    """Of the model on one device."""
    model, device = named_model(MODEL), DeviceFacts.named("NVIDIA H100 80GB HBM3")
    assert model is not None
    assert device is not None
    return Roofline.of(model, device)


def costs(world: World, numbers: dict[int, tuple[Process, int]]) -> list[int]:
    """Of each request, in units."""
    found: Counter[int] = Counter()
    for (index, _), units in charged(world, numbers).items():
        found[index] += units
    return [found[index] for index in sorted(numbers)]


def dying_at_every_other_tick(world: World) -> None:
    """The agent crashes behind each second commit."""
    tick = world.tick

    def dying(*, polled_ns: int | None = None) -> TickOutcome | None:
        world.ledger.crash_after = world.ticks % 2 == 0
        return tick(polled_ns=polled_ns)

    world.tick = dying  # type: ignore[method-assign]


def devices_paid_for(world: World, numbers: dict[int, tuple[Process, int]]) -> set[str]:
    """Of which groups these requests have lines, as the ledger writes them."""
    groups = {row["group_key"]: row["device_keys"] for row in world.rows("device_group")}
    mine = {(world.attach(process).key, number) for process, number in numbers.values()}
    return {
        groups[row["group_key"]]
        for row in world.rows("charge")
        if (row["ring_key"], row["number"]) in mine
    }


@pytest.mark.parametrize(("processes", "crashes"), [(1, False), (2, True)])
def test_engines_on_devices_of_their_own_pay_each_as_if_alone(
    processes: int, *, crashes: bool
) -> None:
    """By a replay of each engine's own counts, whichever process heard of which iteration."""
    world = World([PRICE], devices=2)
    if crashes:
        dying_at_every_other_tick(world)
    runs = [simulated(made_up(20, 3)), simulated(made_up(20, 5))]
    servers = server_of(world, processes, (0, 1), parallel())
    numbers = all_played(
        world, servers, runs, lambda i, all_of: [all_of[i // 3 % len(all_of)]], says=says_engine
    )
    assert methods(world) == {int(Method.ROOFLINE_COUNTS)}
    for run, mine in zip(runs, numbers, strict=True):
        whole, _ = due(run)
        np.testing.assert_allclose(costs(world, mine), whole, rtol=1e-6, atol=1e4)
    assert [devices_paid_for(world, mine) for mine in numbers] == [{"1"}, {"2"}]
    assert audit(world.ledger).holds
    assert world.settlement.iterations.counters.missing == 0


def test_in_exact_mode_each_engine_writes_its_own_batches() -> None:
    """Its process has the engine's devices, the server's processes have all."""
    world = World([PRICE], devices=2)
    runs = [simulated(made_up(12, 3)), simulated(made_up(12, 5))]
    cores = [
        world.process(f"core-{k}", (k,), run="chat", said=parallel(engines=1, first=k))
        for k in range(2)
    ]
    servers = server_of(world, 1, (0, 1), parallel())
    numbers = all_played(world, servers, runs, lambda _, s: s[:0], cores, says=says_engine)
    assert methods(world) == {int(Method.ROOFLINE_TWO_PART)}
    for run, mine in zip(runs, numbers, strict=True):
        assert run.iterations is not None
        shares = roofline_two_part(run.trace, run.iterations, h100())
        np.testing.assert_allclose(
            costs(world, mine), shares.seconds * DOLLARS, rtol=1e-6, atol=1e4
        )
    assert audit(world.ledger).holds


@pytest.mark.parametrize(("exact", "door"), [(False, False), (True, False), (False, True)])
def test_engines_on_the_same_device_share_each_instant(*, exact: bool, door: bool) -> None:
    """Equally among those in an iteration, then by its batch, as in a replay of both.

    A door knows of each request and iteration which engine it was, but not how many there are.
    """
    world = World([PRICE])
    runs = [simulated(made_up(16, 3)), simulated(made_up(16, 5))]
    cores = [
        world.process(f"core-{k}", (0,), run="chat", said=parallel(engines=1, first=k))
        for k in range(2)
    ]
    servers = server_of(world, 1, (0,), None if door else parallel())
    who: Chooser = (lambda _, s: s[:0]) if exact else (lambda _, s: s[:1])
    numbers = all_played(world, servers, runs, who, cores if exact else (), says=says_engine)
    method = Method.ROOFLINE_TWO_PART if exact else Method.ROOFLINE_COUNTS
    assert methods(world) == {int(method)}
    known = [EngineRun(run.trace, _batches(run, exact=exact)) for run in runs]
    for mine, seconds in zip(numbers, seconds_by_engine(known, h100()), strict=True):
        # An iteration begins for whoever is in it, and not before they came.
        np.testing.assert_allclose(costs(world, mine), seconds * DOLLARS, rtol=1e-3, atol=1e4)
    assert audit(world.ledger).holds


def _batches(run: Run, *, exact: bool) -> Iterations:
    if not exact:
        return rebuilt(run.trace, run.counts)
    assert run.iterations is not None
    return run.iterations


def test_what_is_missing_of_one_engine_is_missing_of_no_other() -> None:
    """Each counts its iterations for itself: gaps of one leave the other's requests as they are."""
    world = World([PRICE], devices=2)
    runs = [simulated(made_up(12, 3)), simulated(made_up(12, 5))]
    lost = {200, 201}

    class Deaf(Process):
        """Was not told of some of the second engine's."""

        def iterate(self, index: int, *times: int, engine: int = 0, **said: bool) -> Span:  # type: ignore[override]
            if engine == 1 and index in lost:
                return Span(0, SpanKind.ITERATION, 0)
            return super().iterate(index, *times, engine=engine, **said)

    (server,) = server_of(world, 1, (0, 1), parallel())
    server.__class__ = Deaf
    first, second = all_played(world, [server], runs, says=says_engine)
    assert world.settlement.iterations.counters.missing == len(lost)
    whole, _ = due(runs[0])
    np.testing.assert_allclose(costs(world, first), whole, rtol=1e-6, atol=1e4)
    busy = Busy.of(runs[1].trace.start_ns, runs[1].trace.finish_ns)
    assert sum(charged(world, second, "device_ns").values()) == busy.total_ns
    assert methods(world) == {int(Method.ROOFLINE_COUNTS), int(Method.ROOFLINE_WINDOWS)}
    assert audit(world.ledger).holds


@pytest.mark.parametrize("model", [MODEL, None])
def test_without_iterations_engines_do_not_share_either(model: str | None) -> None:
    """By windows or by time: each engine's requests divide what its own device cost."""
    world = World([PRICE], devices=2)
    (server,) = server_of(world, 1, (0, 1), parallel())
    server.model = model
    runs = [simulated(made_up(12, 3)), simulated(made_up(12, 5))]
    numbers = all_played(world, [server], runs, lambda _, s: s[:0], says=says_engine)
    assert [devices_paid_for(world, mine) for mine in numbers] == [{"1"}, {"2"}]
    for run, mine in zip(runs, numbers, strict=True):
        busy = Busy.of(run.trace.start_ns, run.trace.finish_ns)
        assert sum(charged(world, mine, "device_ns").values()) == busy.total_ns
    assert audit(world.ledger).holds


def test_requests_of_engines_on_other_hosts_pay_for_no_device_here() -> None:
    """The head of a server asks them, too; their devices are the other host's."""
    world = World([PRICE], devices=1)
    (server,) = server_of(world, 1, (0,), parallel(here=1))
    runs = [simulated(made_up(12, 3)), simulated(made_up(12, 5))]
    here, elsewhere = all_played(world, [server], runs, says=says_engine)
    assert costs(world, elsewhere) == [0] * len(elsewhere)
    whole, _ = due(runs[0])
    np.testing.assert_allclose(costs(world, here), whole, rtol=1e-6, atol=1e4)
    assert audit(world.ledger).holds


def test_one_that_is_settled_while_it_runs_keeps_all_devices() -> None:
    """After ten minutes a device waits no more, and what was charged stays where it is."""
    world = World([PRICE], devices=2)
    (server,) = server_of(world, 1, (0, 1), parallel())
    start_ns = world.now_ns
    span = server.start(SpanKind.REQUEST, start_ns, scheduled_ns=start_ns, request_id="long")
    world.run(700 * SECOND, utilization=0.9)
    span.first_token_ns, span.tokens = start_ns + SECOND, (500, 300)
    says_engine(span, 1)
    server.finish(span, world.now_ns)
    world.settle()
    assert devices_paid_for(world, {0: (server, span.number)}) == {"1,2"}
    lines = [row["device_ns"] for row in world.rows("charge") if row["number"] == span.number]
    assert sum(lines) == 2 * (span.end_ns - span.start_ns)
    assert audit(world.ledger).holds


def test_clients_that_say_no_engine_are_settled_by_windows() -> None:
    """As before: where there are several engines and none is named."""
    world = World([PRICE])
    runs = [simulated(made_up(8, 3)), simulated(made_up(8, 5))]
    all_played(world, server_of(world), runs)
    assert methods(world) == {int(Method.ROOFLINE_WINDOWS)}
    assert audit(world.ledger).holds


def test_who_was_in_no_engine_pays_nothing_beside_those_that_were() -> None:
    """A caller who hung up: no engine tells of that request, and its tokens are not known."""
    world = World([PRICE], devices=2)
    (server,) = server_of(world, 1, (0, 1), parallel())
    runs = [simulated(made_up(12, 3)), simulated(made_up(12, 5))]
    origin_ns = world.now_ns
    span = server.start(SpanKind.REQUEST, origin_ns, scheduled_ns=origin_ns)
    first, second = all_played(world, [server], runs, says=_finishing(server, span))
    for run, mine in zip(runs, (first, second), strict=True):
        whole, _ = due(run)
        np.testing.assert_allclose(costs(world, mine), whole, rtol=1e-3, atol=1e4)
    assert audit(world.ledger).holds


def _finishing(server: Process, span: Span) -> Says:
    """The caller of `span` hangs up when the twelfth request has ended."""
    ended = [0]

    def says(other: Span, engine: int) -> None:
        says_engine(other, engine)
        ended[0] += 1
        if ended[0] == 12:
            server.finish(span, max(each.end_ns for each in server.written))

    return says


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**32), here=st.sampled_from([0, 1, 2, 3]), apart=st.booleans())
def test_whatever_rings_say_of_engines_every_sum_holds(
    seed: int, here: int, *, apart: bool
) -> None:
    """Engines that cannot be, or of which nobody says which: meters and lines agree."""
    random = Random(seed)
    world = World([PRICE], devices=2)
    said = parallel(engines=3, here=here, apart=int(apart))
    (server,) = server_of(world, 1, (0, 1), said)
    core = world.process("core", (1,), run="chat", said=parallel(engines=1, first=1))
    if random.random() < 0.5:
        dying_at_every_other_tick(world)
    waiting = list[Span]()
    for step in range(8):
        now_ns = world.now_ns
        for _ in range(random.randint(0, 6)):
            end_ns, engine = now_ns + random.randint(0, SECOND), _odd_engine(random)
            counts = [random.choice((0, 1, 7, 100)) for _ in range(4)]
            exact = random.random() < 0.3
            ring = random.choice((server, core))
            ring.iterate(step, end_ns - SECOND // 9, end_ns, *counts, exact=exact, engine=engine)
        begun = server.start(SpanKind.REQUEST, now_ns, scheduled_ns=now_ns, request_id=f"r-{step}")
        waiting.append(begun)
        for span in [each for each in waiting if random.random() < 0.4 and each is not begun]:
            _end(span, random)
            waiting.remove(span)
            server.finish(span, now_ns)
        world.run(random.choice((SECOND, 3 * SECOND)), utilization=0.9)
        world.tick()
    for span in waiting:
        _end(span, random)
        server.finish(span, world.now_ns)
    world.settle()
    assert audit(world.ledger).holds


def _odd_engine(random: Random) -> int:
    return random.choice((0, 1, 2, 5, 5000, (1 << 32) - 1))


def _end(span: Span, random: Random) -> None:
    span.first_token_ns = random.choice((0, span.start_ns + 1))
    span.tokens = (random.choice((0, 500)), random.choice((0, 300)))
    if random.random() < 0.8:
        says_engine(span, _odd_engine(random))
