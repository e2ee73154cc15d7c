"""What must hold for every method, whatever the trace."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pytest
from benchmarks.evaluation.accuracy import METHODS
from benchmarks.evaluation.conservation import rows_of
from benchmarks.evaluation.engine import ROOFLINE, Arrivals, Simulated, simulate
from hypothesis import given, settings
from hypothesis import strategies as st

from apportion.cost.methods.counts import rebuilt
from apportion.cost.methods.occupancy import OWN_BITS, Occupancy
from apportion.cost.methods.shares import FIXED_BITS
from apportion.cost.methods.trace import IterationCounts, Iterations, Trace
from apportion.cost.methods.two_part import two_part_s
from apportion.cost.methods.windows import roofline_windows
from apportion.cost.replay.iterations_file import BatchRow, CountsRow, Member
from apportion.cost.replay.replay import Replayed, replay
from apportion.cost.replay.requests_file import RequestRow

RATE = Fraction(98_320_000_000_000, 8)


@st.composite
def runs(draw: st.DrawFn) -> Simulated:
    """Small runs of the simulated engine."""
    count = draw(st.integers(1, 8))
    gaps = draw(st.lists(st.floats(0, 2), min_size=count, max_size=count))
    prompts = draw(st.lists(st.integers(1, 5_000), min_size=count, max_size=count))
    outputs = draw(st.lists(st.integers(1, 40), min_size=count, max_size=count))
    return simulate(Arrivals(np.cumsum(gaps), np.array(prompts), np.array(outputs)))


@st.composite
def traces(draw: st.DrawFn) -> list[RequestRow]:
    """Windows that no engine need have made: anything a file may hold."""
    rows: list[RequestRow] = []
    for index in range(draw(st.integers(1, 8))):
        start, first, last = sorted(draw(st.lists(st.integers(0, 60), min_size=3, max_size=3)))
        prompt = draw(st.integers(0, 3_000))
        cached = draw(st.integers(0, prompt))
        times = (start * 10**8, first * 10**8, last * 10**8)
        rows.append(RequestRow(f"r{index}", *times, prompt, cached, draw(st.integers(0, 50)), ""))
    return rows


def replayed(rows: list[RequestRow], energy_mj: int | None = 10**6) -> Replayed:
    """By windows, at an eighth of an instance's rate."""
    ordered = sorted(rows, key=lambda row: (row.start_ns, row.request_id))
    shares = roofline_windows(Trace.of(ordered), ROOFLINE)
    return replay(ordered, shares, units_per_hour=RATE, energy_mj=energy_mj)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=25, deadline=None)
@given(run=runs())
def test_every_unit_goes_somewhere(method: str, run: Simulated) -> None:
    """Money, energy and time of requests and categories sum to the metered, exactly."""
    result = replay(rows_of(run), METHODS[method](run), units_per_hour=RATE, energy_mj=987_654_321)
    parts = result.parts
    assert sum(part.units for part in parts) == result.units
    assert sum(part.energy_mj or 0 for part in parts) == 987_654_321
    assert sum(part.device_ns for part in parts) == result.device_ns
    assert all(part.units >= 0 and part.device_ns >= 0 for part in parts)


@settings(max_examples=50, deadline=None)
@given(rows=traces())
def test_any_windows_are_divided_exactly(rows: list[RequestRow]) -> None:
    """Also windows that contradict the roofline."""
    result = replayed(rows)
    parts = result.parts
    assert sum(part.units for part in parts) == result.units
    assert sum(part.device_ns for part in parts) == result.device_ns


@settings(max_examples=50, deadline=None)
@given(data=st.data(), rows=traces())
def test_order_changes_nothing(data: st.DataObject, rows: list[RequestRow]) -> None:
    """A permutation gives bit-identical amounts."""
    assert replayed(data.draw(st.permutations(rows))) == replayed(rows)


class Sizes(NamedTuple):
    """A request of `lockstep`."""

    prompt: int
    output: int
    cached: int = 0


def lockstep(requests: Mapping[str, Sizes]) -> Simulated:
    """An engine that takes all requests in one iteration and decodes them together."""
    ids = sorted(requests)
    batches = [[(name, requests[name].prompt, requests[name].cached) for name in ids]]
    for step in range(1, max(size.output for size in requests.values())):
        going = [name for name in ids if requests[name].output > step]
        begins = {name: sum(requests[name][::2]) + step - 1 for name in going}
        batches.append([(name, 1, begins[name]) for name in going])
    rows: list[BatchRow] = []
    counts: list[CountsRow] = []
    end_ns = 0
    for line, batch in enumerate(batches):
        sizes = np.array([member[1:] for member in batch], dtype=np.float64)
        begin_ns, end_ns = end_ns, end_ns + round(1e9 * ROOFLINE.iteration_s(*sizes.T))
        rows.append(BatchRow(line, begin_ns, end_ns, tuple(Member(*m) for m in batch)))
        tokens = int(sizes[:, 0].sum())
        prefill, decode = ((len(batch), tokens), (0, 0)) if not line else ((0, 0), (tokens, tokens))
        counts.append(CountsRow(line, end_ns, end_ns - begin_ns, *prefill, *decode))
    ends = [row.end_ns for row in rows]
    trace = Trace.of(
        [
            RequestRow(
                name, 0, ends[0], ends[s.output - 1], s.prompt + s.cached, s.cached, s.output, ""
            )
            for name, s in requests.items()
        ]
    )
    return Simulated(trace, Iterations.of(rows, trace), IterationCounts.of(counts))


def paid(method: str, requests: Mapping[str, Sizes]) -> dict[str, int]:
    """Weights by id."""
    run = lockstep(requests)
    weights: list[int] = METHODS[method](run).weights.tolist()
    return dict(zip(run.trace.request_id, weights, strict=True))


SIZES = st.builds(Sizes, st.integers(1, 4_000), st.integers(1, 40), st.integers(0, 4_000))
SLACK = 64
"""In 2^-10 ns: what roundings of a few hundred iterations may add up to."""


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=20)
@given(one=SIZES, others=st.lists(SIZES, max_size=3))
def test_twins_pay_alike_by_every_method(method: str, one: Sizes, others: list[Sizes]) -> None:
    """Symmetry: the same facts, the same part, whatever a request is called."""
    found = paid(method, {"z": one, "a": one, **{f"m{i}": size for i, size in enumerate(others)}})
    assert abs(found["z"] - found["a"]) <= SLACK


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=20)
@given(one=SIZES)
def test_alone_pays_all_by_every_method(method: str, one: Sizes) -> None:
    """Nobody else to share with: all of the busy time, and none of it is left over."""
    run = lockstep({"only": one})
    shares = METHODS[method](run)
    assert abs(int(shares.weights[0]) - (shares.busy.total_ns << FIXED_BITS)) <= SLACK
    assert shares.unknown == 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("what", ["prompt", "output", "cached"])
@settings(max_examples=20)
@given(one=SIZES, more=st.integers(1, 2_000), others=st.lists(SIZES, max_size=2))
def test_more_never_pays_less_by_every_method(
    method: str, what: str, one: Sizes, more: int, others: list[Sizes]
) -> None:
    """Monotony in prompt, output and context, beside the same neighbours."""
    more = more % 20 + 1 if what == "output" else more
    larger = one._replace(**{what: getattr(one, what) + more})
    rest = {f"m{i}": size for i, size in enumerate(others)}
    found = paid(method, {"small": one, "large": larger, **rest})
    assert found["large"] >= found["small"] - SLACK


@settings(max_examples=50, deadline=None)
@given(rows=traces())
def test_twins_pay_alike(rows: list[RequestRow]) -> None:
    """Two requests with the same facts differ by a unit at most."""
    twin = rows[0]._replace(request_id="twin")
    costs = {part.request.request_id: part.units for part in replayed([*rows, twin]).requests}
    assert abs(costs["twin"] - costs[twin.request_id]) <= 1


@settings(max_examples=50, deadline=None)
@given(
    prompt=st.integers(1, 4_000),
    output=st.integers(1, 500),
    more=st.tuples(st.integers(0, 4_000), st.integers(0, 500)),
)
def test_more_tokens_never_pay_less(prompt: int, output: int, more: tuple[int, int]) -> None:
    """Beside the same neighbour and in the same windows."""
    second = 10**9
    small = RequestRow("small", 0, second, 20 * second, prompt, 0, output, "")
    large = small._replace(
        request_id="large", input_tokens=prompt + more[0], output_tokens=output + more[1]
    )
    costs = {part.request.request_id: part.units for part in replayed([small, large]).requests}
    assert costs["large"] >= costs["small"] - 1


@given(st.integers(0, 4_000), st.integers(0, 500))
def test_alone_pays_all(prompt: int, output: int) -> None:
    """Nobody else to share with: the whole of its time, prefill and decode."""
    row = RequestRow("only", 5, 10**9, 3 * 10**9, prompt, 0, output, "")
    result = replayed([row])
    assert result.requests[0].units == result.units
    assert result.spanless[0].units == 0


def test_a_pass_that_only_prefills_has_no_decoding_members() -> None:
    """SGLang prefills and decodes in turns: who decodes pays nothing for another's prompt."""
    rows = [
        RequestRow("a", 0, 10**9, 5 * 10**9, 100, 0, 40, ""),
        RequestRow("b", 2 * 10**9, 3 * 10**9, 6 * 10**9, 100, 0, 40, ""),
    ]
    end_ns = np.arange(1, 7) * 10**9
    prompts = np.array([1, 0, 1, 0, 0, 0])
    counts = IterationCounts(
        end_ns, np.full(6, 10**9), prompts, prompts * 100, 1 - prompts, 1 - prompts
    )
    found = rebuilt(Trace.of(rows), counts)
    members = [found.request[a:b].tolist() for a, b in itertools.pairwise(found.offsets.tolist())]
    assert members == [[0], [0], [1], [0, 1], [0, 1], [1]]


def test_cached_tokens_are_not_computed() -> None:
    """Of two prompts of one length, the one that was cached pays less."""
    rows = [
        RequestRow("cold", 0, 10**9, 2 * 10**9, 4_000, 0, 20, ""),
        RequestRow("warm", 0, 10**9, 2 * 10**9, 4_000, 3_900, 20, ""),
    ]
    costs = {part.request.request_id: part.units for part in replayed(rows).requests}
    assert costs["warm"] < costs["cold"]


@given(
    st.lists(st.tuples(st.integers(1, 2_000), st.integers(0, 4_000)), min_size=2, max_size=6),
    st.tuples(st.integers(0, 500), st.integers(0, 4_000)),
)
def test_two_part_is_monotone(batch: list[tuple[int, int]], more: tuple[int, int]) -> None:
    """In one iteration, more new tokens or a longer context never weigh less."""
    new, context = batch[0]
    members = [Member(f"m{i}", *sizes) for i, sizes in enumerate(batch)]
    members.append(Member("more", new + more[0], context + more[1]))
    rows = [RequestRow(m.request_id, 0, 1, 2, 1, 0, 1, "") for m in members]
    iterations = Iterations.of([BatchRow(1, 0, 1, tuple(members))], Trace.of(rows))
    names = Trace.of(rows).request_id
    places: list[int] = iterations.request.tolist()
    weights: list[float] = two_part_s(iterations, ROOFLINE).tolist()
    parts = {names[index]: weight for index, weight in zip(places, weights, strict=True)}
    assert parts["more"] >= parts["m0"] * (1 - 1e-12)


@settings(max_examples=100)
@given(
    windows=st.lists(
        st.tuples(st.integers(0, 9), st.integers(1, 10), st.floats(0, 2)), min_size=1, max_size=5
    ),
    cut=st.integers(1, 9),
)
def test_cutting_time_changes_nothing(windows: list[tuple[int, int, float]], cut: int) -> None:
    """An interval settled in two pieces gives each window what it had in one, to a rounding."""
    second = 10**9
    starts = np.array([first * second for first, _, _ in windows])
    ends = np.array([(first + length) * second for first, length, _ in windows])
    own = np.array([round(need * 2**OWN_BITS) for _, _, need in windows])

    def settled(begin: int, end: int) -> np.ndarray:
        low, high = np.clip(starts, begin, end), np.clip(ends, begin, end)
        edges = np.unique(np.concatenate([low, high, [begin, end]]))
        first, last = np.searchsorted(edges, low), np.searchsorted(edges, high)
        return Occupancy.of(first, last, own, edges.size - 1).weights(np.diff(edges), 10)

    whole = settled(0, 20 * second)
    pieces = settled(0, cut * second) + settled(cut * second, 20 * second)
    assert np.abs(whole - pieces).max() <= 64
    covered = len({t for s, e in zip(starts, ends, strict=True) for t in range(s, e, second)})
    assert abs(int(whole.sum()) - (covered * second << 10)) <= 64 * len(windows)
