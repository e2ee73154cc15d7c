"""`apportion trace`: what people type, and what one bad file does to the others (nothing)."""

from __future__ import annotations

import csv
import gzip
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.profiles.written import complete, document, kernel, launch, save, step

from apportion.agent.cli.command import main

EVENTS = [
    step(1, 0, 100),
    launch(1, 1),
    kernel("gemm", 10, 40, 1),
    launch(2, 2),
    kernel("ncclDevKernel_AllReduce_Sum_f32_RING_LL", 40, 20, 2, stream=20),
]


@pytest.fixture
def ranks(tmp_path: Path) -> list[str]:
    """The traces of two ranks."""
    return [
        str(save(tmp_path / f"rank{rank}.json.gz", document(EVENTS, rank=rank))) for rank in (0, 1)
    ]


def test_breakdown_as_json(ranks: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Every list of every rank is in one document, in the order of the files."""
    assert main(["trace", "breakdown", *ranks, "--format", "json"]) == 0

    found: Any = json.loads(capsys.readouterr().out)
    assert [one["rank"] for one in found] == [0, 1]
    (first, whole) = found[0]["steps"]
    assert (first["step"], whole["step"]) == (1, "all")
    assert (first["busy_ms"], first["compute_ms"], first["exposed_ms"]) == (0.05, 0.04, 0.01)
    assert [one["types"] for one in found[0]["types"]] == [
        "computation",
        "communication",
        "computation + communication",
    ]
    assert found[0]["kernels"][0]["kernel"] == "gemm"
    assert {one["stream"] for one in found[0]["streams"]} == {7, 20}


def test_breakdown_as_csv(ranks: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A list of choice, one row each, with the file that it came from."""
    assert main(["trace", "breakdown", ranks[0], "--format", "csv", "--list", "kernels"]) == 0

    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["source"], row["type"], row["total_ms"]) for row in rows] == [
        (ranks[0], "computation", "0.04"),
        (ranks[0], "communication", "0.02"),
    ]


def test_files_without_a_rank_are_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the shortest name that does: alone without its folder, else below the common one."""
    paths: list[str] = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        events = [*EVENTS, launch(50, 3 if name == "a" else 4)]
        paths.append(str(save(tmp_path / name / "run.json", document(events))))

    for files, names in ((paths[:1], {"run.json"}), (paths, {"a/run.json", "b/run.json"})):
        assert main(["trace", "breakdown", *files, "--list", "types", "--jobs", "1"]) == 0
        lines = capsys.readouterr().out.splitlines()[1:]
        assert {line.split()[0] for line in lines} == names


@pytest.mark.parametrize("form", ["table", "json"])
def test_breakdown_of_one_list(
    ranks: list[str], form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who asks for one list is shown no other."""
    assert main(["trace", "breakdown", ranks[0], "--list", "streams", "--format", form]) == 0

    said = capsys.readouterr().out.lower()
    assert "stream" in said
    assert 'kernel"' not in said
    assert "window_ms" not in said


def test_breakdown_as_tables(ranks: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A person sees steps, shares, types and kernels, and nothing on stderr without a terminal."""
    assert main(["trace", "breakdown", *ranks]) == 0

    said = capsys.readouterr()
    assert "EXPOSED_MS" in said.out
    assert "OVERLAP_PCT" in said.out
    assert "gemm" in said.out
    assert said.err == ""


def test_bad_files_harm_no_other(
    ranks: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each refusal is a line with its remedy; what can be read is read; the exit status says it."""
    cut = tmp_path / "cut.json.gz"
    cut.write_bytes(Path(ranks[1]).read_bytes()[:-20])
    copy = str(shutil.copy(ranks[0], tmp_path / "copy.json.gz"))
    empty = tmp_path / "empty.json"
    empty.touch()
    unpacked = tmp_path / "unpacked.json"
    unpacked.write_bytes(gzip.decompress(Path(ranks[0]).read_bytes()))
    bad = [str(cut), copy, str(unpacked), str(empty), str(tmp_path / "missing.json")]

    assert main(["trace", "breakdown", *bad, *ranks, "--format", "json"]) == 1

    said = capsys.readouterr()
    assert [one["source"] for one in json.loads(said.out)] == [copy, ranks[1]]
    for words in (
        "cut off or damaged",
        f"rank0.json.gz: is the same trace as {copy}",
        f"unpacked.json: is the same trace as {copy}",
        "empty.json: is empty",
        "missing.json: cannot be read: No such file",
    ):
        assert words in said.err
    assert "Traceback" not in said.err


def test_nothing_readable_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With no trace at all the command refuses, and prints no empty table."""
    (tmp_path / "notes.json").write_text("hello")

    assert main(["trace", "breakdown", str(tmp_path / "notes.json")]) == 2

    said = capsys.readouterr()
    assert said.out == ""
    assert "notes.json: is not JSON; give what torch.profiler" in said.err


def test_one_rank_from_two_captures_is_named(
    ranks: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two different traces of one rank are shown, with a word about mixing them."""
    other = save(tmp_path / "later.json", document(EVENTS[:3], rank=0))

    assert main(["trace", "breakdown", *ranks, str(other), "--jobs", "1"]) == 0

    assert f"later.json: rank 0 was already given as {ranks[0]}" in capsys.readouterr().err


def test_comm_with_a_rate(ranks: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Communication's share of a step and its money: 10 of 100 us exposed, at 3.6 an hour."""
    command = ["trace", "comm", *ranks, "--rate", "3.6", "--format", "json"]
    assert main(command) == 0

    found: Any = json.loads(capsys.readouterr().out)
    (first, *_) = found["steps"]
    assert (first["communication_pct"], first["exposed_pct"]) == (20.0, 10.0)
    assert (first["step_cost"], first["communication_cost"], first["exposed_cost"]) == (
        "0.000000100000",
        "0.000000020000",
        "0.000000010000",
    )
    (row, _) = found["collectives"]
    assert (row["collective"], row["count"], row["bytes"], row["ranks"]) == (
        "all_reduce",
        1,
        None,
        2,
    )
    assert (row["wire_ms"], row["wait_ms"]) == (0.02, 0.0)
    assert "neither bytes nor group" in found["warnings"][0]


def test_comm_as_tables_and_csv(ranks: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Without a rate there is no column of money; a list of choice has its own columns."""
    assert main(["trace", "comm", *ranks]) == 0
    said = capsys.readouterr()
    assert "WIRE_BUSBW_GB_S" in said.out
    assert "COST" not in said.out
    assert "rank0.json.gz and 1 more: its communication kernels say neither" in said.err

    assert main(["trace", "comm", *ranks, "--format", "csv", "--list", "operations"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["time_us"] for row in rows] == ["20.0", "20.0"]


def test_comm_of_some_ranks_asks_for_the_others(
    ranks: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """One rank of two does not know who waited: columns are empty, and that is said, and why."""
    assert main(["trace", "comm", ranks[0]]) == 0
    assert "1 operations are not here of all ranks" in capsys.readouterr().err

    assert main(["trace", "comm", *ranks]) == 0
    assert "of all ranks" not in capsys.readouterr().err


def test_comm_has_no_cost_outside_of_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What no step launched has no window of its own, so steps' costs are never counted twice."""
    stray = [launch(500, 9), kernel("ncclDevKernel_AllGather", 510, 10, 9)]
    path = save(tmp_path / "stray.json", document([*EVENTS, *stray], rank=0))

    assert main(["trace", "comm", str(path), "--rate", "3.6", "--format", "json"]) == 0

    first, outside, whole = json.loads(capsys.readouterr().out)["steps"]
    assert (outside["step"], outside["window_ms"], outside["step_cost"]) == ("outside", None, None)
    assert outside["communication_cost"] == "0.000000010000"
    assert first["step_cost"] == whole["step_cost"] == "0.000000100000"


def test_comm_refuses_what_is_no_rate(ranks: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A price that is no plain decimal is refused by name."""
    assert main(["trace", "comm", *ranks, "--rate", "1e3"]) == 2

    assert "--rate '1e3' is not a decimal" in capsys.readouterr().err


def test_roofline_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """MFU of a trace with shapes: 0.624 TFLOP/s on a device of 312 are 0.2 %."""
    shapes = {"Input Dims": [[1000, 312], [312, 1000]]}
    events = [complete("cpu_op", "aten::mm", 0, 1000, args=shapes), launch(1, 1)]
    path = save(tmp_path / "run.json", document([*events, kernel("gemm", 10, 5, 1)], rank=0))
    command = ["trace", "roofline", str(path), "--device", "NVIDIA A100-SXM4-80GB"]

    assert main([*command, "--format", "json"]) == 0

    (row,) = json.loads(capsys.readouterr().out)
    assert (row["name"], row["flop"], row["time_ms"]) == ("the run of rank 0", 624e6, 1.0)
    assert (row["mfu_pct"], row["mbu_pct"], row["bound"]) == (0.2, None, None)


def test_roofline_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without peaks columns are empty, without bytes there is no dot: both are said."""
    assert main(["trace", "roofline", "--point", "a=1,2,3", "--format", "json"]) == 0
    said = capsys.readouterr()
    assert "--point: names no device, so its peaks are unknown" in said.err
    (row,) = json.loads(said.out)
    assert "peaks are unknown" in row["warnings"][0]

    path, picture = save(tmp_path / "run.json", document(EVENTS)), tmp_path / "roofline.svg"
    assert main(["trace", "roofline", str(path), "--svg", str(picture)]) == 1
    said = capsys.readouterr()
    assert "roofline.svg: not written: nothing here has both" in said.err
    assert "have no shapes" in said.err
    assert not picture.exists()


def test_roofline_of_points_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An engine's estimates are a dot: 156 of 312 TFLOP/s at an intensity right of the ridge."""
    picture = tmp_path / "roofline.svg"
    command = ["trace", "roofline", "--point", "prefill=156e12,5e11,1", "--svg", str(picture)]

    assert main([*command, "--device", "NVIDIA A100-SXM4-80GB", "--format", "csv"]) == 0

    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (row["bound"], row["mfu_pct"], row["flop_per_byte"]) == ("compute", "50.0", "312.0")
    assert "prefill" in picture.read_text()


def test_roofline_of_ncu_says_unverified(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A reader that no real file has proved says so each time; bad files harm no other."""
    good, bad = tmp_path / "good.csv", tmp_path / "bad.csv"
    good.write_text(
        '"ID","Kernel Name","gpu__time_duration.sum","dram__bytes.sum"\n'
        '"","","usecond","byte"\n"0","copy","10","2,000"\n'
    )
    bad.write_text('"ID","Kernel Name"\n"",""\n')

    assert main(["trace", "roofline", str(bad), str(good)]) == 1

    said = capsys.readouterr()
    assert "copy" in said.out
    assert "UNVERIFIED" in said.err
    assert "bad.csv: has no row of a kernel with its time" in said.err
    assert main(["trace", "breakdown", str(good)]) == 2
    assert "is not JSON" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "name a FILE, or a --point"),
        (["--point", "a=1,2"], "is not NAME=FLOP,BYTES,SECONDS"),
        (["--point", "a=1,2,-3"], "with numbers above 0"),
        (["--point", "a=1,nan,3"], "with numbers above 0"),
        (["--point", "a=1e300,2,3"], "with numbers above 0"),
        (["--point", "a=1,2,3", "--device", "RTX 9999"], "is not known; known: NVIDIA B200"),
        (["--point", "a=1,2,3", "--svg", "/nowhere/a.svg"], "cannot be written"),
    ],
)
def test_roofline_refusals(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wrong usage is refused in one line with what is right."""
    assert main(["trace", "roofline", *options]) == 2

    assert said in capsys.readouterr().err
