"""Engine iterations are read in one of two forms, or refused with file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apportion.core.errors import TraceFileError
from apportion.cost.replay.iterations_file import BatchRow, CountsRow, Member, read_iterations

BATCH = (
    '{"start_s":0.1,"end_s":0.2000000001,'
    '"batch":[{"request_id":"b","new_tokens":1,"context_tokens":9},'
    '{"request_id":"a","new_tokens":30,"context_tokens":0}]}'
)
COUNTS = (
    '{"t": 1795380680.4845936, "it": {"num_ctx_requests": 1, "num_ctx_tokens": 309, '
    '"num_generation_requests": 2, "num_generation_tokens": 2, "elapsed_ms": 66.50849700054096}, '
    '"gen": 1}'
)


def written(folder: Path, *lines: str) -> Path:
    path = folder / "iterations.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_batch_by_id(tmp_path: Path) -> None:
    """Times keep their digits, members are in the order of their ids."""
    found = read_iterations(written(tmp_path, BATCH))
    members = (Member("a", 30, 0), Member("b", 1, 9))
    assert found.batches == (BatchRow(1, 100_000_000, 200_000_000, members),)
    assert found.counts == ()


def test_counts_of_an_engine(tmp_path: Path) -> None:
    """vLLM's record, with its first line and its heartbeats passed over and counted."""
    found = read_iterations(written(tmp_path, '{"init": 0}', COUNTS, '{"t": 1795380682.85}'))
    assert found.counts == (CountsRow(2, 1_795_380_680_484_593_600, 66_508_497, 1, 309, 2, 2),)
    assert found.passed_over == 2


def test_the_same_line_twice_counts_once(tmp_path: Path) -> None:
    """Duplicate and shuffled delivery gives the same iterations."""
    later = BATCH.replace("0.1,", "0.3,").replace("0.2000000001", "0.4")
    once = read_iterations(written(tmp_path, BATCH, later)).batches
    again = read_iterations(written(tmp_path, later, BATCH, later, BATCH)).batches
    assert [row[1:] for row in again] == [row[1:] for row in once]


@pytest.mark.parametrize(
    ("lines", "line", "message"),
    [
        ([""], None, "no iteration"),
        ([BATCH, "{"], 2, "is not JSON"),
        (["[1]"], 1, "is not a JSON object"),
        (['{"start_s": NaN, "end_s": 1, "batch": []}'], 1, "is not JSON"),
        (['{"end_s": 1, "batch": []}'], 1, "start_s is missing"),
        (['{"start_s": "0", "end_s": 1, "batch": []}'], 1, "start_s is '0', not a number"),
        (['{"start_s": 2, "end_s": 1, "batch": []}'], 1, "end_s is before start_s"),
        (['{"start_s": 0, "end_s": 1, "batch": {}}'], 1, "batch is not a list"),
        (['{"start_s": 0, "end_s": 1, "batch": [{}]}'], 1, "no request_id"),
        ([BATCH.replace(":30", ":-1")], 1, "new_tokens is '-1', not a whole number"),
        ([BATCH.replace('"b"', '"a"')], 1, "request 'a' is in the batch twice"),
        ([BATCH, BATCH.replace("0.1,", "0.15,")], 2, "overlaps that of line 1"),
        ([BATCH, COUNTS], 2, "by id and by counts"),
        (['{"x": 1}'], 1, "is no iteration: it has x"),
        ([COUNTS.replace("66.5", "-66.5")], 1, "elapsed_ms"),
    ],
)
def test_what_it_cannot_be_is_refused(
    tmp_path: Path, lines: list[str], line: int | None, message: str
) -> None:
    """Each malformed file is named with its line and what to do."""
    with pytest.raises(TraceFileError) as refusal:
        read_iterations(written(tmp_path, *lines))
    assert message in str(refusal.value)
    assert refusal.value.line == line


_VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
_NAMES = st.sampled_from(["start_s", "end_s", "batch", "t", "it", "init", "request_id"])
_JSON = st.recursive(
    _VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=4)
)


@given(document=_JSON)
def test_any_json_is_iterations_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, document: object
) -> None:
    """Fuzz: nothing but our own error ever comes out."""
    path = tmp_path_factory.mktemp("fuzz") / "iterations.jsonl"
    path.write_text(f"{json.dumps(document)}\n")
    try:
        read_iterations(path)
    except TraceFileError as refusal:
        assert str(path) in str(refusal)  # noqa: PT017 - the other way out is no error


@given(content=st.binary(max_size=200))
def test_any_bytes_are_iterations_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    """Fuzz: nothing but our own error ever comes out."""
    path = tmp_path_factory.mktemp("fuzz") / "iterations.jsonl"
    path.write_bytes(content)
    try:
        read_iterations(path)
    except TraceFileError as refusal:
        assert str(path) in str(refusal)  # noqa: PT017 - the other way out is no error
