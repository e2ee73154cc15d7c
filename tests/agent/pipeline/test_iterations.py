"""Requests whose engine tells of its iterations pay by the batches that they were in."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import pytest
from benchmarks.evaluation.engine import Arrivals, made_up, simulate
from tests.agent.pipeline.test_request_needs import MODEL, PRICE
from tests.agent.pipeline.world import DOLLARS, SECOND, Process, Span, World

from apportion.agent.ingest import Identity
from apportion.agent.pipeline.tick import TickOutcome
from apportion.core.category import Phase, SpanKind
from apportion.core.device_facts import DeviceFacts
from apportion.cost.audit import audit
from apportion.cost.methods.counts import roofline_counts
from apportion.cost.methods.model_catalogue import named_model
from apportion.cost.methods.names import Method
from apportion.cost.methods.roofline import Floats, Roofline
from apportion.cost.methods.shares import Busy
from apportion.cost.methods.trace import Column, IterationCounts, Iterations, Trace
from apportion.cost.methods.two_part import roofline_two_part
from apportion.cost.replay.requests_file import RequestRow

Servers = list[Process]
Ticking = Callable[..., TickOutcome | None]
Chooser = Callable[[int, Servers], Iterable[Process]]
"""Which processes are told of an iteration."""
Says = Callable[[Span, int], None]


class Run(NamedTuple):
    """Requests of one engine and its iterations, on one clock."""

    trace: Trace
    counts: IterationCounts
    iterations: Iterations | None = None
    """Who was in them."""
    late_ns: Column | None = None
    """By how much the server puts each request's times too late; it tells them at its end."""


def simulated(arrivals: Arrivals) -> Run:
    """SIMULATED: what an engine would do with them."""
    run = simulate(arrivals)
    return Run(run.trace, run.counts, run.iterations)


class Turn(NamedTuple):
    """A request in so many iterations in a row, alike."""

    request: int
    first: int
    iterations: int
    tokens: int
    context: int


def turns_by_last(iterations: Iterations) -> dict[int, list[Turn]]:
    """All turns, by the iteration that they end with."""
    under_way: dict[int, Turn] = {}
    ended: dict[int, list[Turn]] = defaultdict(list)
    columns = (iterations.owner, iterations.request, iterations.new_tokens)
    for at, request, tokens, context in zip(
        *(column.tolist() for column in (*columns, iterations.context_tokens)), strict=True
    ):
        turn = under_way.get(request)
        if turn is not None and (turn.first + turn.iterations, turn.tokens) == (at, tokens):
            under_way[request] = turn._replace(iterations=turn.iterations + 1)
            continue
        if turn is not None:
            ended[turn.first + turn.iterations - 1].append(turn)
        under_way[request] = Turn(request, at, 1, tokens, context)
    for turn in under_way.values():
        ended[turn.first + turn.iterations - 1].append(turn)
    return ended


def played(
    world: World,
    servers: Servers,
    run: Run,
    told: Chooser = lambda _, servers: servers[:1],
    core: Process | None = None,
) -> dict[int, tuple[Process, int]]:
    """Plays a run in the world's time; process and number of each request's span.

    `core` is the engine's own process, in exact mode.
    """
    (numbers,) = all_played(world, servers, [run], told, [] if core is None else [core])
    return numbers


def events_of(run: Run) -> dict[int, Column]:
    """When iterations end (0), and requests have a first token (1), come (2) and end (3)."""
    trace, late_ns = run.trace, 0 if run.late_ns is None else run.late_ns
    told_ns = {1: trace.first_token_ns + late_ns, 3: trace.finish_ns + late_ns}
    return {0: run.counts.end_ns, 2: trace.start_ns, **told_ns}


def all_played(
    world: World,
    servers: Servers,
    runs: Sequence[Run],
    told: Chooser = lambda _, servers: servers[:1],
    cores: Sequence[Process] = (),
    *,
    says: Says | None = None,
) -> list[dict[int, tuple[Process, int]]]:
    """Plays a run for each engine of a server, all at once; those of each.

    `cores` are the engines' own processes, in exact mode. `says` sets what a request says of its
    engine at its end.
    """
    turns = [turns_by_last(run.iterations) if run.iterations and cores else {} for run in runs]
    origin_ns = world.now_ns + SECOND
    events = [
        (origin_ns + time_ns, what, index, engine)
        for engine, run in enumerate(runs)
        for what, column in events_of(run).items()
        for index, time_ns in enumerate(column.tolist())
    ]
    spans: list[dict[int, Span]] = [{} for _ in runs]
    for time_ns, what, index, engine in sorted(events):
        while world.now_ns + SECOND < time_ns:
            world.run(SECOND, utilization=0.9)
            world.tick()
        trace, counts = runs[engine].trace, runs[engine].counts
        server = servers[index % len(servers)]
        if what == 0:
            start_ns = time_ns - int(counts.elapsed_ns[index])
            prefill = (counts.prefill_requests, counts.prefill_tokens)
            columns = (*prefill, counts.decode_requests, counts.decode_tokens)
            for process in told(index, servers):
                all_of = (int(column[index]) for column in columns)
                process.iterate(index, start_ns, time_ns, *all_of, engine=engine)
            if cores:
                all_of = (int(column[index]) for column in columns)
                cores[engine].iterate(index, start_ns, time_ns, *all_of, exact=True, engine=engine)
            for turn in turns[engine].get(index, ()):
                one = cores[engine].schedule(f"r-{engine}-{turn.request}", *turn[1:])
                one.engine = engine
                one.start_ns = origin_ns + int(counts.end_ns[turn.first]) - 1
                cores[engine].finish(one, time_ns)
        elif what == 1:
            spans[engine][index].first_token_ns = time_ns
        elif what == 2:
            name = f"r-{engine}-{index}"
            late_ns = runs[engine].late_ns
            admission = {"scheduled_ns": time_ns} if late_ns is None else {"told_later": True}
            spans[engine][index] = server.start(
                SpanKind.REQUEST, time_ns, request_id=name, **admission
            )
        else:
            span, late_ns = spans[engine][index], runs[engine].late_ns
            if late_ns is not None:
                span.scheduled_ns = span.start_ns + int(late_ns[index])
            span.tokens = (int(trace.input_tokens[index]), int(trace.output_tokens[index]))
            span.cached = int(trace.cached_input_tokens[index])
            if says is not None:
                says(span, engine)
            server.finish(span, time_ns)
    world.settle()
    return [
        {index: (servers[index % len(servers)], span.number) for index, span in each.items()}
        for each in spans
    ]


def server_of(
    world: World,
    processes: int = 1,
    devices: Sequence[int] = (0,),
    said: Identity | None = None,
) -> Servers:
    """One server, on one device if not said otherwise."""
    names = [f"api-{number}" for number in range(processes)]
    servers = [world.process(name, devices, run="chat", said=said) for name in names]
    for server in servers:
        server.workload, server.model = "chat", MODEL
    world.read_all(0.0)
    return servers


def charged(
    world: World, numbers: dict[int, tuple[Process, int]], column: str = "units"
) -> dict[tuple[int, int], int]:
    """Of these requests, by request and phase."""
    names = {}
    for index, (process, number) in numbers.items():
        names[world.attach(process).key, number] = index
    sums: dict[tuple[int, int], int] = defaultdict(int)
    for row in world.rows("charge"):
        if (row["ring_key"], row["number"]) in names:
            sums[names[row["ring_key"], row["number"]], row["phase"]] += row[column]
    return sums


def methods(world: World) -> set[int]:
    """Of lines of requests."""
    return {row["method_key"] for row in world.rows("charge") if row["number"]}


def due(run: Run) -> tuple[Floats, Floats]:
    """(all, prefill) in units, as a replay of the whole run says."""
    model, device = named_model(MODEL), DeviceFacts.named("NVIDIA H100 80GB HBM3")
    assert model is not None
    assert device is not None
    shares = roofline_counts(run.trace, run.counts, Roofline.of(model, device))
    whole = shares.seconds * DOLLARS
    return whole, shares.prefill / np.maximum(shares.weights, 1) * whole


@pytest.mark.parametrize("processes", [1, 2])
def test_requests_pay_as_a_replay_by_counts_says(processes: int) -> None:
    """Ticks and hours change nothing, nor which of a server's processes heard of an iteration."""
    world = World([PRICE])
    run = simulated(made_up(40, 3))
    servers = server_of(world, processes)
    chosen: Chooser = lambda index, all_of: [all_of[(index // 3) % len(all_of)]]  # noqa: E731
    numbers = played(world, servers, run, chosen)
    assert methods(world) == {int(Method.ROOFLINE_COUNTS)}
    costs = charged(world, numbers)
    got = [[costs[i, phase] for phase in (Phase.PREFILL, Phase.DECODE)] for i in sorted(numbers)]
    table = np.array(got)
    whole, prefill = due(run)
    np.testing.assert_allclose(table.sum(axis=1), whole, rtol=1e-6, atol=1e4)
    np.testing.assert_allclose(table[:, 0], prefill, rtol=1e-5, atol=1e4)
    assert audit(world.ledger).holds
    assert world.settlement.iterations.counters.missing == 0
    assert not world.rows("iteration")[3:]


def test_an_agent_that_dies_between_ticks_changes_next_to_nothing() -> None:
    """What was read, settled and begun comes back: the same amounts."""
    run, results = simulated(made_up(20, 5)), list[list[int]]()
    for crashes in (False, True):
        world = World([PRICE])
        tick = world.tick

        def dying(
            *, polled_ns: int | None = None, world: World = world, tick: Ticking = tick
        ) -> TickOutcome | None:
            world.ledger.crash_after = world.ticks % 2 == 0
            return tick(polled_ns=polled_ns)

        if crashes:
            world.tick = dying  # type: ignore[method-assign]
        numbers = played(world, server_of(world), run)
        assert methods(world) == {int(Method.ROOFLINE_COUNTS)}
        assert audit(world.ledger).holds
        costs = charged(world, numbers)
        results.append([costs[key] for key in sorted(costs)])
    np.testing.assert_allclose(results[1], results[0], rtol=0, atol=20)


def test_what_is_missing_is_settled_by_windows_and_counted() -> None:
    """Requests that an unknown iteration was in say so; the others and every sum stay."""
    world = World([PRICE])
    run = simulated(made_up(20, 7))
    lost = {200, 201, 500}
    numbers = played(world, server_of(world), run, lambda i, s: [] if i in lost else s)
    assert methods(world) == {int(Method.ROOFLINE_COUNTS), int(Method.ROOFLINE_WINDOWS)}
    assert world.settlement.iterations.counters.missing == len(lost)
    busy = Busy.of(run.trace.start_ns, run.trace.finish_ns)
    assert sum(charged(world, numbers, "device_ns").values()) == busy.total_ns
    assert audit(world.ledger).holds


def test_twice_and_in_any_order_is_the_same() -> None:
    """Two processes that are told of the same iteration, in either order, change nothing."""
    results: list[list[int]] = []
    once: Chooser = lambda _, servers: servers[:1]  # noqa: E731
    twice: Chooser = lambda _, servers: [*servers, servers[0]]  # noqa: E731
    for told in (once, twice):
        world = World([PRICE])
        numbers = played(world, server_of(world, 2), simulated(made_up(20, 5)), told)
        costs = charged(world, numbers)
        results.append([costs[key] for key in sorted(costs)])
        assert audit(world.ledger).holds
    assert results[0] == results[1]


def captured(path: Path) -> Run:
    """What a real vLLM 0.32 told a stat logger."""
    lines: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()]
    told = [line for line in lines if line.get("it")]
    first_s = told[0]["t"] - 1
    requests: list[RequestRow] = []
    rows: list[tuple[int, ...]] = []
    for line in told:
        end_ns = round((line["t"] - first_s) * 1e9)
        counts = line["it"]
        rows.append(
            (
                end_ns,
                round(counts["elapsed_ms"] * 1e6),
                counts["num_ctx_requests"],
                counts["num_ctx_tokens"],
                counts["num_generation_requests"],
                counts["num_generation_tokens"],
            )
        )
        for each in line.get("fin", []):
            admitted_ns, token_ns = (
                end_ns - round(each[name] * 1e9) for name in ("inference_time", "decode_time")
            )
            tokens = ("num_prompt_tokens", "num_cached_tokens", "num_generation_tokens")
            prompt, cached, output = (int(each[name]) for name in tokens)
            times = (admitted_ns, token_ns, end_ns)
            requests.append(RequestRow(each["request_id"], *times, prompt, cached, output, ""))
    return Run(Trace.of(requests), IterationCounts(*np.array(rows, np.int64).T.copy()))


def test_what_a_real_vllm_told(published: Path) -> None:
    """Its 64 requests pay as a replay says, and its iterations hold the requests' tokens."""
    world = World([PRICE])
    run = captured(published / "engines" / "vllm_0.32.0_stat_logger_records.jsonl")
    assert run.trace.size == 64
    computed = int(run.trace.computed_tokens.sum())
    assert int(run.counts.prefill_tokens.sum()) == computed == 4451
    numbers = played(world, server_of(world), run)
    assert methods(world) == {int(Method.ROOFLINE_COUNTS)}
    costs = charged(world, numbers)
    got = np.array([costs[i, Phase.PREFILL] + costs[i, Phase.DECODE] for i in sorted(numbers)])
    whole, _ = due(run)
    # It is admitted within an iteration as this clock sees it, and pays from there on.
    assert np.abs(got - whole).sum() / 2 < 0.001 * whole.sum()
    assert audit(world.ledger).holds


@pytest.mark.parametrize("crashes", [False, True])
def test_in_exact_mode_requests_pay_as_the_true_batches_say(*, crashes: bool) -> None:
    """By what the engine's own process writes; long prompts, in chunks, and drafts of none."""
    world = World([PRICE])
    run = simulated(made_up(24, 3).scaled(prompts=4, answers=4, rate=2.0))
    tick = world.tick

    def dying(*, polled_ns: int | None = None) -> TickOutcome | None:
        world.ledger.crash_after = world.ticks % 2 == 0
        return tick(polled_ns=polled_ns)

    if crashes:
        world.tick = dying  # type: ignore[method-assign]
    core = world.process("core", run="chat")
    servers = server_of(world)
    assert run.iterations is not None
    numbers = played(world, servers, run, lambda _, servers: servers[:0], core)
    assert methods(world) == {int(Method.ROOFLINE_TWO_PART)}
    model, device = named_model(MODEL), DeviceFacts.named("NVIDIA H100 80GB HBM3")
    assert model is not None
    assert device is not None
    shares = roofline_two_part(run.trace, run.iterations, Roofline.of(model, device))
    costs = charged(world, numbers)
    got = [costs[i, Phase.PREFILL] + costs[i, Phase.DECODE] for i in sorted(numbers)]
    np.testing.assert_allclose(got, shares.seconds * DOLLARS, rtol=1e-6, atol=1e4)
    assert audit(world.ledger).holds


@pytest.mark.parametrize("seed", range(3))
def test_whatever_a_ring_says_every_sum_holds(seed: int) -> None:
    """Iterations and turns that cannot be true divide nothing that is not there."""
    random = Random(seed)
    world = World([PRICE])
    (server,) = server_of(world)
    core = world.process("core", run="chat")
    odd, waiting = (0, 1, 2, 7, 100, 1 << 31, (1 << 53) - 1), list[Span]()

    def some() -> int:
        return random.choice(odd)

    for step in range(10):
        now_ns = world.now_ns
        for _ in range(random.randint(0, 6)):
            end_ns = now_ns + random.randint(0, SECOND)
            start_ns = max(1, end_ns - random.choice((0, SECOND // 100, SECOND, now_ns)))
            if random.random() < 0.6:
                index, counts = random.choice((*odd, step, step + 1)), [some() for _ in range(4)]
                exact = random.random() < 0.5
                random.choice((server, core)).iterate(index, start_ns, end_ns, *counts, exact=exact)
            else:
                turn = core.schedule(random.choice(("r", "s", "")), step, some(), some(), some())
                turn.start_ns = start_ns
                core.finish(turn, end_ns)
        begun = server.start(SpanKind.REQUEST, now_ns, scheduled_ns=now_ns, request_id="r")
        waiting.append(begun)
        for span in [each for each in waiting if random.random() < 0.4 and each is not begun]:
            span.first_token_ns = random.choice((0, span.start_ns + 1, now_ns))
            span.tokens = (random.choice((0, 500)), random.choice((0, 300)))
            waiting.remove(span)
            server.finish(span, now_ns)
        world.run(random.choice((SECOND, 3 * SECOND)), utilization=0.9)
        world.tick()
    for span in waiting:
        server.finish(span, world.now_ns)
    world.settle()
    assert audit(world.ledger).holds
    assert {row["number"] for row in world.rows("charge")} >= {s.number for s in waiting}
