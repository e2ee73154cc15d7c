"""Series end with what they are about, and only then; and there are never too many."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from apportion.agent.metrics.labels import OTHER, LabelFolder, SeriesBudget
from apportion.agent.pipeline.ended_series import ENDED_NS, LEFT_NS, LOOK_NS, EndedSeries
from apportion.agent.pipeline.interned import EntityKey, Interned
from apportion.agent.pipeline.totals import Totals, Who
from apportion.agent.snapshot import SpendKey
from apportion.agent.testing import full_snapshot
from apportion.core.allocation import Pod
from apportion.core.category import Category, SpanKind, SpanStatus
from apportion.core.sample import Sample

OLD, NEW = Who("train", "run-1"), Who("train", "run-2")


class Node:
    """Counters of runs, a folder with room for a few, and a clock."""

    def __init__(self, most_series: int = 1_000, *, runs: int = 1) -> None:
        limits = {"workload": 9, "run": runs, "tenant": 9, "model": 9, "pod": 2}
        self.folder = LabelFolder(limits, {"run": ["run-9"]}, most_series=most_series)
        self.entities = Interned[EntityKey]()
        self.totals = Totals(self.folder, self.entities)
        self.ended = EndedSeries(self.totals, self.folder)
        self.now_ns = 0

    def step(self, run: str) -> None:
        """One step of it ends."""
        entity = self.entities.key(EntityKey("train", run=run))
        self.totals.add_ended(SpanKind.STEP, entity, SpanStatus.OK, 1)

    def watch(self, for_ns: int, live: frozenset[Who] = frozenset()) -> None:
        """Look once a minute."""
        for _ in range(for_ns // LOOK_NS):
            self.now_ns += LOOK_NS
            self.ended.look(self.now_ns, live)

    @property
    def runs(self) -> set[str]:
        """Those that have series."""
        return {key.run for key in self.totals.steps}


def test_a_run_that_is_over_ends_and_leaves_its_place() -> None:
    """After an hour without a change; then the next run has a series of its own."""
    node = Node()
    node.step("run-1")
    node.step("run-2")
    assert node.runs == {"run-1", OTHER}
    node.watch(ENDED_NS)
    assert node.runs == {"run-1", OTHER}
    node.watch(2 * LOOK_NS)
    assert node.runs == {OTHER}
    assert node.ended.counts == {"finished": 1, "gone": 0, "replaced": 0}
    node.step("run-2")
    assert node.runs == {"run-2", OTHER}
    node.watch(2 * ENDED_NS)
    assert node.ended.counts["finished"] == 2


def test_a_place_that_is_reserved_is_free_again_where_nobody_comes() -> None:
    """Who spent most last week comes first; half of the places stay for others; an hour holds."""
    node = Node(runs=4)
    node.folder.reserve({"run": ["run-7", "run-8", "run-6"]})
    for run in ("run-1", "run-2", "run-3", "run-7"):
        node.step(run)
    assert node.runs == {"run-1", "run-2", OTHER, "run-7"}
    lives = frozenset(Who("train", run) for run in node.runs)
    node.watch(ENDED_NS + 2 * LOOK_NS, lives)
    node.step("run-3")
    assert node.runs == {"run-1", "run-2", "run-3", OTHER, "run-7"}


def test_what_lives_or_changes_does_not_end() -> None:
    """A process that waits for hours keeps its series; so does a run that steps now and then."""
    node = Node()
    node.step("run-1")
    node.step("run-9")
    for _ in range(4):
        node.watch(ENDED_NS - 2 * LOOK_NS, frozenset([OLD]))
        node.step("run-9")
    assert node.runs == {"run-1", "run-9"}
    assert node.ended.counts["finished"] == 0


def test_a_pod_that_holds_nothing_any_more_ends() -> None:
    """A server's series in it, while the server goes on in another; a run's last as long as it."""
    node = Node()
    for name, run, pod in (("chat", "", "a"), ("chat", "", "b"), ("train", "run-1", "a")):
        key = SpendKey(Category.DIRECT, name, run, namespace="ml", pod=pod)
        node.totals._spend.add(key, 1, None, None)
        node.folder.pod(f"ml/{pod}")
    assert node.folder.pod("ml/c") == OTHER
    folded = SpendKey(Category.DIRECT, "chat", namespace=OTHER, pod=OTHER)
    node.totals._spend.add(folded, 1, None, None)
    live = frozenset([Who("chat"), OLD])
    for _ in range(ENDED_NS // LOOK_NS + 2):
        node.now_ns += LOOK_NS
        node.ended.look(node.now_ns, live, {Pod("ml", "b")})
    found = {(key.workload, key.pod) for key in node.totals.spend}
    assert found == {("chat", "b"), ("train", "a"), ("chat", OTHER)}
    assert node.ended.counts["finished"] == 3
    node.watch(LOOK_NS, live)
    assert {(key.workload, key.pod) for key in node.totals.spend} == found - {("chat", "b")}


def test_nobody_is_over_because_nobody_looked() -> None:
    """While the ledger takes nothing, nothing changes: hours without a look are not an hour."""
    node = Node()
    node.step("run-1")
    for _ in range(5):
        node.now_ns += 10 * ENDED_NS
        node.ended.look(node.now_ns, ())
    assert node.runs == {"run-1"}


def test_what_a_source_tells_no_more_has_ended() -> None:
    """A pod's series, and those of a device; what goes on is not counted."""
    node = Node()
    pods = [Sample("allocation_ratio", 1, (("owner", f"pod-{number}"),)) for number in range(3)]
    devices = full_snapshot().devices
    node.ended.told(pods, devices)
    node.ended.told(pods, devices)
    assert node.ended.counts["gone"] == 0
    node.ended.told([pods[0]._replace(value=0.5)], devices)
    assert node.ended.counts["gone"] == 2
    assert devices[0].reading is not None
    node.ended.told(pods[:1], [replace(devices[0], reading=None)])
    assert node.ended.counts["gone"] == 2 + len(set(devices[0].reading.samples))


def test_a_label_that_is_named_is_never_folded() -> None:
    """Whoever comes first, the allow-list keeps its names, and takes no place of others."""
    node = Node()
    for run in ("run-1", "run-2", "run-9"):
        node.step(run)
    assert node.runs == {"run-1", OTHER, "run-9"}
    assert node.folder.folded["run"] == 1


def test_who_spends_much_more_takes_a_place() -> None:
    """Not who spends a little more; begins at 0, and who leaves stops, is shown, and ends."""
    node, live = Node(), frozenset([OLD, NEW])
    node.watch(ENDED_NS, live)
    for run in ("run-1", "run-2", "run-2"):
        node.step(run)
    assert node.folder.decide({"run": {"run-2": 100, "run-1": 51, "run-9": 7}}) == set()
    assert node.folder.decide({"run": {"run-2": 100, "run-1": 1}}) == set()  # it came no more
    node.step("run-2")
    left = node.folder.decide({"run": {"run-2": 100, "run-1": 50, "never-seen": 999}})
    assert left == {("run", "run-1")}
    node.ended.replaced(left)
    node.watch(2 * LOOK_NS, live)
    for run in ("run-1", "run-2"):
        node.step(run)
    assert {key.run: count for key, count in node.totals.steps.items()} == {
        "run-1": 1,
        "run-2": 1,
        OTHER: 4,
    }
    node.watch(LEFT_NS, live)
    assert node.runs == {"run-2", OTHER}
    assert node.ended.counts["replaced"] == 1


def test_nobody_leaves_while_a_place_is_free() -> None:
    """One that ended has left it: who waits takes that one, and nobody stands still for him."""
    node = Node(runs=2)
    for run in ("run-1", "run-2", "run-3"):
        node.step(run)
    node.folder.keep_only({"run": ["run-1"]})
    assert node.folder.decide({"run": {"run-3": 100, "run-1": 1}}) == set()
    node.step("run-3")
    assert node.runs == {"run-1", "run-2", "run-3", OTHER}


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 6), st.none() | st.integers(1, 9)), max_size=60))
def test_no_counter_falls_whoever_takes_a_place(events: list[tuple[int, int | None]]) -> None:
    """Whatever is decided when: what was added is in some series, and stays there."""
    node, spent = Node(runs=3), dict[str, int]()
    before: dict[str, int] = {}
    for count, (number, amount) in enumerate(events, 1):
        run = f"run-{number}"
        node.step(run)
        if amount is not None:
            spent[run] = spent.get(run, 0) + 10**amount
            node.folder.decide({"run": spent})
        now = {key.run: steps for key, steps in node.totals.steps.items()}
        assert sum(now.values()) == count
        assert all(now[name] >= steps for name, steps in before.items())
        assert len(node.folder._labels["run"]._kept) <= 3
        before = now


def test_beyond_the_budget_there_is_one_more_series() -> None:
    """A product of labels within their own bounds can be too much; nothing is left out."""
    node = Node(most_series=1)
    for run in ("run-1", "run-9", "run-9"):
        node.step(run)
    assert sorted((key.run, count) for key, count in node.totals.steps.items()) == [
        ("other", 2),
        ("run-1", 1),
    ]
    assert node.folder.budget.refused == 2


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 20)), max_size=50), st.integers(0, 90))
def test_a_budget_is_kept(keys: list[tuple[int, int]], most: int) -> None:
    """Whatever comes: the series of keys that are not `other` never exceed it; sticky, too."""
    budget, known = SeriesBudget(most), dict[int, int]()
    for key, series in keys:
        found = budget.key(key, known, other=-1, series=series)
        assert found in {key, -1}
        assert found == key or key not in known
        known.setdefault(found, series)
        assert sum(series for key, series in known.items() if key >= 0) <= most
