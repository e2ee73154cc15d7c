"""`apportion replay`: rows that add up, the method that was possible, and refusals in one line."""

from __future__ import annotations

import csv
import io
import json
from decimal import Decimal
from pathlib import Path

import pytest

from apportion.agent.cli import main
from apportion.agent.cli.replay import COLUMNS

DEVICE, MODEL = "NVIDIA H100 80GB HBM3", "meta-llama/Llama-3.1-8B-Instruct"
REQUESTS = """\
request_id,start_s,first_token_s,finish_s,prompt_tokens,cached_tokens,output_tokens
a,0,0.5,2,1000,0,100
b,0.25,0.75,1.5,200,100,50
c,3,3.5,4,10,0,10
"""
BATCHES = """\
{"start_s":0,"end_s":0.5,"batch":[{"request_id":"a","new_tokens":1000,"context_tokens":0}]}
{"start_s":0.5,"end_s":0.75,"batch":[{"request_id":"a","new_tokens":1,"context_tokens":1000},\
{"request_id":"b","new_tokens":100,"context_tokens":100}]}
{"start_s":0.75,"end_s":2,"batch":[{"request_id":"a","new_tokens":1,"context_tokens":1001},\
{"request_id":"b","new_tokens":1,"context_tokens":200}]}
{"start_s":3,"end_s":4,"batch":[{"request_id":"c","new_tokens":10,"context_tokens":0}]}
"""
COUNTS = """\
{"init": 0}
{"t": 0.5, "it": {"num_ctx_requests": 1, "num_ctx_tokens": 1000, "num_generation_requests": 0,\
 "num_generation_tokens": 0, "elapsed_ms": 400.5}}
{"t": 0.75, "it": {"num_ctx_requests": 1, "num_ctx_tokens": 100, "num_generation_requests": 1,\
 "num_generation_tokens": 1, "elapsed_ms": 200}}
{"t": 2, "it": {"num_ctx_requests": 0, "num_ctx_tokens": 0, "num_generation_requests": 2,\
 "num_generation_tokens": 2, "elapsed_ms": 1000}}
{"t": 3.5, "it": {"num_ctx_requests": 1, "num_ctx_tokens": 10, "num_generation_requests": 0,\
 "num_generation_tokens": 0, "elapsed_ms": 400}}
"""


@pytest.fixture
def requests(tmp_path: Path) -> Path:
    path = tmp_path / "requests.csv"
    path.write_text(REQUESTS)
    return path


def run(
    capsys: pytest.CaptureFixture[str], requests: Path, *more: str, **changes: str
) -> tuple[int, str, str]:
    options = {"device": DEVICE, "model": MODEL, "rate": "3.6", **changes}
    named = [part for name, value in options.items() for part in (f"--{name}", value)]
    status = main(["replay", "--requests", str(requests), *named, *more])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.parametrize(
    ("iterations", "method"),
    [
        (None, "roofline-windows/1"),
        (BATCHES, "roofline-two-part/1"),
        (COUNTS, "roofline-counts/1"),
    ],
)
def test_rows_add_up_to_the_rate_times_the_time(
    capsys: pytest.CaptureFixture[str],
    requests: Path,
    tmp_path: Path,
    iterations: str | None,
    method: str,
) -> None:
    """Four seconds at 3.60 an hour are 0.004, by the best method that the files allow."""
    more: tuple[str, ...] = ()
    if iterations is not None:
        path = tmp_path / "iterations.jsonl"
        path.write_text(iterations)
        more = ("--iterations", str(path))
    status, out, err = run(capsys, requests, "--energy-j", "1000.001", *more)
    assert (status, err) == (0, "")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert tuple(rows[0]) == COLUMNS
    assert [row["request_id"] for row in rows] == ["a", "b", "c", "allocated_idle"]
    assert {row["allocation_method"] for row in rows} == {method}
    assert sum(Decimal(row["cost"]) for row in rows) == Decimal("0.004")
    assert sum(Decimal(row["device_seconds"]) for row in rows) == 4
    assert sum(Decimal(row["energy_j"]) for row in rows) == Decimal("1000.001")
    assert Decimal(rows[3]["device_seconds"]) == 1
    assert float(rows[2]["device_seconds"]) == pytest.approx(1, abs=1e-6)


def test_json_has_the_same_rows(capsys: pytest.CaptureFixture[str], requests: Path) -> None:
    """Amounts are strings, so that no reader rounds them; unknown energy is null."""
    _, out, _ = run(capsys, requests, "--format", "json")
    rows = json.loads(out)
    assert sum(Decimal(row["cost"]) for row in rows) == Decimal("0.004")
    assert {row["energy_j"] for row in rows} == {None}


def test_a_group_is_metered_as_so_many_devices(
    capsys: pytest.CaptureFixture[str], requests: Path
) -> None:
    """Two devices for four seconds are eight device-seconds and twice the money."""
    _, out, _ = run(capsys, requests, "--devices", "2")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert sum(Decimal(row["cost"]) for row in rows) == Decimal("0.008")
    assert sum(Decimal(row["device_seconds"]) for row in rows) == 8


def test_what_was_computed_twice_is_shown(
    capsys: pytest.CaptureFixture[str], requests: Path, tmp_path: Path
) -> None:
    """A preempted request computes its prompt again: it pays, and its waste has a name."""
    path = tmp_path / "iterations.jsonl"
    again = (
        '{"start_s":2,"end_s":2.5,"batch":[{"request_id":"a","new_tokens":1000,'
        '"context_tokens":0}]}\n{"start_s":3'
    )
    path.write_text(BATCHES.replace('{"start_s":3', again))
    _, out, err = run(capsys, requests, "--iterations", str(path), "--format", "json")
    rows = {row["request_id"]: row for row in json.loads(out)}
    paid = {name: Decimal(row["recompute_cost"] or 0) for name, row in rows.items()}
    assert abs(paid["a"] - Decimal("0.0005")) < Decimal("1e-10")
    assert sum(paid.values()) == paid["a"]
    assert f"{paid['a']} of the cost computed again" in err
    assert Decimal(rows["a"]["cost_per_output_token"]) * 100 <= Decimal(rows["a"]["cost"])


@pytest.mark.parametrize("changes", [{"device": "NVIDIA Nothing"}, {"model": "nobody/nothing"}])
def test_without_facts_it_says_so(
    capsys: pytest.CaptureFixture[str], requests: Path, changes: dict[str, str]
) -> None:
    """token-share, named in every row and explained once on stderr."""
    status, out, err = run(capsys, requests, **changes)
    assert status == 0
    assert "apportioned by tokens (token-share/1)" in err
    rows = list(csv.DictReader(io.StringIO(out)))
    assert {row["allocation_method"] for row in rows} == {"token-share/1"}
    assert sum(Decimal(row["cost"]) for row in rows) == Decimal("0.004")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": "-1"}, "--rate '-1' is not a decimal"),
        ({"rate": "nan"}, "--rate 'nan' is not a decimal"),
        ({"rate": "."}, "--rate '.' is not a decimal"),
        ({"rate": "10000000"}, "above 9.2 million"),
        ({"devices": "0"}, "--devices '0' is not a whole number"),
        ({"energy-j": "x"}, "--energy-j 'x' is not a decimal"),
        ({"model": "absent.json"}, "cannot be read as a model's config.json"),
    ],
)
def test_what_cannot_be_is_refused(
    capsys: pytest.CaptureFixture[str], requests: Path, changes: dict[str, str], message: str
) -> None:
    """One line on stderr, nothing on stdout, status 2."""
    status, out, err = run(capsys, requests, **changes)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err


@pytest.mark.parametrize(
    ("iterations", "message"),
    [
        (BATCHES.replace('"b"', '"x"'), "names request 'x'"),
        (COUNTS.replace('"t": ', '"t": 9'), "the two files have different clocks"),
        ("{", "iterations.jsonl:1: is not JSON"),
    ],
)
def test_files_that_do_not_match_are_refused(
    capsys: pytest.CaptureFixture[str],
    requests: Path,
    tmp_path: Path,
    iterations: str,
    message: str,
) -> None:
    """Iterations of another time or of other requests are not quietly ignored."""
    path = tmp_path / "iterations.jsonl"
    path.write_text(iterations)
    status, out, err = run(capsys, requests, "--iterations", str(path))
    assert (status, out) == (2, "")
    assert message in err


def test_a_request_may_not_be_called_as_a_category(
    capsys: pytest.CaptureFixture[str], requests: Path
) -> None:
    """A row's first column says who, without doubt."""
    requests.write_text(REQUESTS.replace("\nc,", "\nallocated_idle,"))
    status, _, err = run(capsys, requests)
    assert status == 2
    assert "rename it" in err


def test_iterations_of_unknown_requests_are_work_without_a_span(
    capsys: pytest.CaptureFixture[str], requests: Path, tmp_path: Path
) -> None:
    """Counts prove the device busy where no request of the file was in flight: never idle."""
    path = tmp_path / "iterations.jsonl"
    busy = '{"t": 2.9, "it": {"num_ctx_requests": 0, "num_ctx_tokens": 0, "elapsed_ms": 500, '
    path.write_text(COUNTS + busy + '"num_generation_requests": 3, "num_generation_tokens": 3}}\n')
    status, out, _ = run(capsys, requests, "--iterations", str(path))
    assert status == 0
    rows = {row["request_id"]: row for row in csv.DictReader(io.StringIO(out))}
    assert float(rows["direct"]["device_seconds"]) == pytest.approx(0.5, abs=1e-6)
    assert Decimal(rows["allocated_idle"]["device_seconds"]) == Decimal("0.5")
    assert sum(Decimal(row["cost"]) for row in rows.values()) == Decimal("0.004")
