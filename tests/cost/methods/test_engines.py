"""What engines do beside plain batches: caches, preemption, drafts, experts, several devices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from benchmarks.evaluation.accuracy import measured
from benchmarks.evaluation.cases import EXPERTS
from benchmarks.evaluation.engine import H100, LLAMA, ROOFLINE, made_up, simulate
from hypothesis import given
from hypothesis import strategies as st

from apportion.core.device_facts import DeviceFacts
from apportion.cost.methods.counts import rebuilt, roofline_counts
from apportion.cost.methods.roofline import Roofline
from apportion.cost.methods.shares import FIXED_BITS, TraceShares
from apportion.cost.methods.trace import IterationCounts, Iterations, Trace
from apportion.cost.methods.two_part import by_iteration, roofline_two_part
from apportion.cost.methods.windows import roofline_windows
from apportion.cost.replay.iterations_file import BatchRow, CountsRow, Member
from apportion.cost.replay.requests_file import RequestRow

MS = 1_000_000
SECOND = 1_000 * MS


def trace_of(*rows: tuple[str, int, int, int, int, int, int]) -> Trace:
    """Requests (id, start, first token, finish, prompt, cached, output), times in ms."""
    return Trace.of(
        [RequestRow(r[0], r[1] * MS, r[2] * MS, r[3] * MS, r[4], r[5], r[6], "") for r in rows]
    )


def by_id(trace: Trace, *batches: Sequence[tuple[str, int, int]]) -> Iterations:
    """Iterations of 10 ms, one after the other: members (id, new tokens, context)."""
    rows = [
        BatchRow(i, i * 10 * MS, (i + 1) * 10 * MS, tuple(Member(*member) for member in batch))
        for i, batch in enumerate(batches)
    ]
    return Iterations.of(rows, trace)


def seconds(shares: TraceShares, trace: Trace) -> dict[str, float]:
    """What each request got."""
    return dict(zip(trace.request_id, shares.seconds.tolist(), strict=True))


# -- cached prefixes -----------------------------------------------------------------------------
def test_a_cached_prefix_costs_no_prefill_by_any_method() -> None:
    """By windows and by counts: of two prompts of one length the cached one pays less."""
    trace = trace_of(("cold", 0, 100, 200, 4_000, 0, 10), ("warm", 0, 100, 200, 4_000, 3_900, 10))
    counts = IterationCounts.of(
        [
            CountsRow(1, 100 * MS, 100 * MS, 2, 4_100, 0, 0),
            *(CountsRow(2 + i, (111 + 11 * i) * MS, 11 * MS, 0, 0, 2, 2) for i in range(9)),
        ]
    )
    for shares in (roofline_windows(trace, ROOFLINE), roofline_counts(trace, counts, ROOFLINE)):
        got = seconds(shares, trace)
        assert got["warm"] < 0.8 * got["cold"], shares.allocation_method


def test_decoding_after_a_cached_prefix_reads_all_of_it() -> None:
    """A cache saves arithmetic and no reading: the context counts whole, cached or not."""
    trace = trace_of(("long", 0, 10, 1_000, 8_000, 8_000, 90), ("short", 0, 10, 1_000, 10, 10, 90))
    got = seconds(roofline_windows(trace, ROOFLINE), trace)
    assert got["long"] > got["short"]


# -- preemption ----------------------------------------------------------------------------------
def preempted() -> tuple[Trace, Iterations]:
    """A request of 4,000 tokens decodes two, is thrown out, and computes its context again."""
    trace = trace_of(("a", 0, 10, 70, 4_000, 0, 6), ("b", 0, 10, 70, 4_000, 0, 7))
    iterations = by_id(
        trace,
        [("a", 4_000, 0), ("b", 4_000, 0)],
        [("a", 1, 4_000), ("b", 1, 4_000)],
        [("a", 1, 4_001), ("b", 1, 4_001)],
        [("b", 1, 4_002)],
        [("a", 4_003, 0), ("b", 1, 4_003)],
        [("a", 1, 4_003), ("b", 1, 4_004)],
        [("a", 1, 4_004), ("b", 1, 4_005)],
    )
    return trace, iterations


def test_what_is_computed_twice_is_paid_by_who_caused_it_and_is_marked() -> None:
    """The preempted request pays for both; what came again is known as waste."""
    trace, iterations = preempted()
    again = iterations.recomputed_tokens(trace)
    assert again[iterations.owner == 4].tolist() == [4_002, 0]
    assert int(again.sum()) == 4_002
    shares = roofline_two_part(trace, iterations, ROOFLINE)
    assert shares.recompute is not None
    waste = shares.recompute / (1e9 * (1 << FIXED_BITS))
    assert waste[1] == 0
    assert 0.009 < waste[0] < 0.010
    without = by_iteration("x", trace, iterations, np.ones(iterations.request.size))
    assert seconds(shares, trace)["a"] > seconds(without, trace)["a"]


@given(
    st.lists(st.integers(1, 400), min_size=1, max_size=6), st.integers(0, 300), st.integers(1, 9)
)
def test_chunks_and_a_cache_are_no_recomputation(
    chunks: list[int], cached: int, decodes: int
) -> None:
    """A prompt that is computed in pieces, after a cached part, is computed once."""
    prompt = cached + sum(chunks)
    trace = trace_of(("a", 0, 10 * len(chunks), 999, prompt, cached, decodes))
    begins = np.cumsum([cached, *chunks]).tolist()
    batches = [[("a", new, begin)] for new, begin in zip(chunks, begins, strict=False)]
    batches += [[("a", 1, prompt + step)] for step in range(decodes)]
    iterations = by_id(trace, *batches)
    assert int(iterations.recomputed_tokens(trace).sum()) == 0


# -- speculative decoding ------------------------------------------------------------------------
def test_refused_drafts_cost_and_are_no_recomputation() -> None:
    """Each iteration computes 1 + drafts tokens, whatever of it is delivered."""
    trace = trace_of(("drafts", 0, 10, 60, 100, 0, 8), ("plain", 0, 10, 60, 100, 0, 6))
    batches = [
        [("drafts", 5, 100 + delivered), ("plain", 1, 100 + step)]
        for step, delivered in enumerate((0, 2, 3, 5, 7))
    ]
    iterations = by_id(trace, [("drafts", 100, 0), ("plain", 100, 0)], *batches)
    assert int(iterations.recomputed_tokens(trace).sum()) == 0
    slow = Roofline.of(LLAMA, DeviceFacts("slow", 1e12, 3350e9))
    got = seconds(roofline_two_part(trace, iterations, slow), trace)
    assert got["drafts"] > 1.3 * got["plain"]


def test_counts_with_drafts_are_divided_among_those_who_decode() -> None:
    """Three requests whose iterations compute twelve tokens: four each, more than delivered."""
    trace = trace_of(*((name, 0, 10, 60, 100, 0, 11) for name in "abc"))
    counts = IterationCounts.of(
        [
            CountsRow(1, 10 * MS, 10 * MS, 3, 300, 0, 0),
            *(CountsRow(2 + i, (20 + 10 * i) * MS, 10 * MS, 0, 0, 3, 12) for i in range(5)),
        ]
    )
    iterations = rebuilt(trace, counts)
    decodes = iterations.new_tokens[iterations.owner > 0]
    assert decodes.tolist() == [4] * 15
    contexts = iterations.context_tokens[iterations.owner > 0].reshape(5, 3)
    assert contexts[:, 0].tolist() == [100, 102, 104, 106, 108]


# -- mixture of experts --------------------------------------------------------------------------
def test_a_token_reads_its_experts_and_a_long_prompt_all() -> None:
    """dense + experts x (1 - (1 - k/E)^N), and arithmetic for the active parameters only."""
    read = EXPERTS.weights_s(np.array([0.0, 1.0, 1e5])) - EXPERTS.beta_s
    assert read[0] == 0
    assert read[1] == pytest.approx(EXPERTS.expert_beta_s * 8 / 128)
    assert read[2] == pytest.approx(EXPERTS.expert_beta_s)
    dense = Roofline.of(LLAMA, H100)
    assert dense.experts_s(np.array([7.0]))[0] == 0


def test_experts_are_near_the_oracle() -> None:
    """What is read is divided by what each alone would read: within 1 % of the exact value."""
    run = simulate(made_up(120, 7), EXPERTS)
    found = measured(run)
    assert found["roofline-two-part/1"].distance < 1
    assert found["roofline-two-part/1"].distance < found["token-share/1"].distance / 3


# -- prefill and decode apart --------------------------------------------------------------------
def test_disaggregated_engines_are_two_traces() -> None:
    """The prefill engine has prompts and one token each, the decode engine cached prompts."""
    prefill = trace_of(("a", 0, 80, 80, 4_000, 0, 1), ("b", 0, 80, 80, 40, 0, 1))
    decode = trace_of(("a", 90, 95, 900, 4_000, 4_000, 200), ("b", 90, 95, 900, 40, 40, 200))
    first, second = roofline_windows(prefill, ROOFLINE), roofline_windows(decode, ROOFLINE)
    assert first.prefill.tolist() == first.weights.tolist()
    got = seconds(first, prefill)
    assert got["a"] > 2 * got["b"]
    assert float(first.seconds.sum()) == pytest.approx(0.080)
    assert float(second.seconds.sum()) == pytest.approx(0.810)
    # What the decode engine does before its first token is taking over keys and values.
    assert int(second.prefill[0]) > int(second.prefill[1]) > 0


# -- several devices -----------------------------------------------------------------------------
def test_a_group_is_one_device_with_summed_rates() -> None:
    """Two alike are twice as fast; two that differ are as fast as both together."""
    a100 = DeviceFacts("NVIDIA A100-SXM4-80GB", 312e12, 2039e9)
    one, two = Roofline.of(LLAMA, H100), Roofline.of(LLAMA, H100, H100)
    mixed = Roofline.of(LLAMA, H100, a100)
    assert two.alpha_s == pytest.approx(one.alpha_s / 2)
    assert two.beta_s == pytest.approx(one.beta_s / 2)
    assert 1 / mixed.alpha_s == pytest.approx(
        1 / one.alpha_s + 1 / Roofline.of(LLAMA, a100).alpha_s
    )
