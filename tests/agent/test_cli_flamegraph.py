"""`apportion flamegraph`: what people type, and what they get."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.profiles.written import document, kernel, launch, save, step

from apportion.agent.cli.command import main

FOLDED = "main;train;forward 6\nmain;train;backward 3\nmain;load 1\nmain;train;forward 2\n"


@pytest.fixture
def folded(tmp_path: Path) -> str:
    """A small profile."""
    path = tmp_path / "cpu.folded"
    path.write_text(FOLDED)
    return str(path)


def test_build_folds_onto_stdout(folded: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a file the stacks come out as text, each once, of all files together."""
    assert main(["flamegraph", "build", folded, folded]) == 0

    assert capsys.readouterr().out.splitlines() == [
        "main;train;forward 16",
        "main;train;backward 6",
        "main;load 2",
    ]


@pytest.mark.parametrize(
    ("ending", "begins"),
    [
        (".svg", b"<svg "),
        (".html", b"<!doctype html>"),
        (".folded", b"main;train;forward 8\n"),
        (".json", b'{"shared":'),
        (".pb.gz", b"\x1f\x8b"),
    ],
)
def test_the_ending_says_the_form(folded: str, tmp_path: Path, ending: str, begins: bytes) -> None:
    """Each form is written where it was asked for."""
    out = tmp_path / f"flame{ending}"

    assert main(["flamegraph", "build", folded, "-o", str(out), "--title", "Mine"]) == 0

    assert out.read_bytes().startswith(begins)


def test_a_picture_of_folded_text_needs_no_numpy(folded: str, tmp_path: Path) -> None:
    """Most of a small picture's time would be that import; and it is the same picture."""
    program = (
        "import sys\n"
        "for name in ('numpy', 'msgspec', 'sqlalchemy', 'pydantic'):\n"
        "    sys.modules[name] = None\n"
        "from apportion.client.dispatch import main\n"
        "sys.exit(main(['flamegraph', 'build', sys.argv[1], '-o', sys.argv[2]]))\n"
    )
    at_once, by_columns = tmp_path / "at_once.svg", tmp_path / "columns.svg"

    subprocess.run([sys.executable, "-c", program, folded, str(at_once)], check=True, timeout=100)
    known = tmp_path / "known.json"
    assert main(["flamegraph", "build", folded, "-o", str(known)]) == 0
    assert main(["flamegraph", "build", str(known), "-o", str(by_columns)]) == 0

    assert at_once.read_text() == by_columns.read_text()


def test_frames_that_are_not_drawn_are_said(folded: str, tmp_path: Path) -> None:
    """A picture that leaves frames out says so, and its total is that of everything."""
    out = tmp_path / "flame.svg"

    assert main(["flamegraph", "build", folded, "-o", str(out), "--min-width", "200"]) == 0

    text = out.read_text()
    assert "1 frames too narrow to be drawn, whose width stays" in text
    assert "12 samples in all" in text


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["-o", "x.png"], "--out x.png: the ending says no form"),
        (["--unit", "money"], "--unit money needs --currency"),
        (["--currency", "USD"], "say --unit money, too"),
        (["--weight", "joules"], "has no weight 'energy', but samples; money and"),
        (["-o", "/nonexistent/x.svg"], "cannot be written: No such file"),
    ],
)
def test_wrong_wishes_are_one_line(
    folded: str, more: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be done is refused with the remedy, not with a traceback."""
    assert main(["flamegraph", "build", folded, *more]) == 2

    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1


def test_a_trace_of_nothing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody is told of steps who did not ask for any, nor shown a row of noughts."""
    path = save(tmp_path / "nothing.json", document([]))

    for command in (["flamegraph", "build"], ["trace", "breakdown"]):
        assert main([*command, str(path)]) == 2

        said = capsys.readouterr()
        assert said.out == ""
        assert "nothing.json: has no events: nothing ran while it was recorded" in said.err
        assert "--steps" not in said.err


def test_top_ranks_frames(folded: str, capsys: pytest.CaptureFixture[str]) -> None:
    """By own weight or by total, as whole numbers for programs and with units for people."""
    assert main(["flamegraph", "top", folded, "--format", "csv", "--by", "total", "-n", "2"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(one["frame"], one["own"], one["total"], one["total_pct"]) for one in rows] == [
        ("main", "0", "12", "100.0"),
        ("train", "0", "11", "91.67"),
    ]

    money = ["--unit", "money", "--currency", "usd"]
    assert main(["flamegraph", "top", folded, *money]) == 0
    assert "0.000000000008 USD" in capsys.readouterr().out


def test_difference_in_money(folded: str, tmp_path: Path) -> None:
    """Two profiles in money: what became more is red, and the heading says by how much."""
    after, out = tmp_path / "after.folded", tmp_path / "diff.svg"
    after.write_text("main;train;forward 9\nmain;load 1\n")
    money = ["--unit", "money", "--currency", "USD"]

    assert main(["flamegraph", "diff", folded, str(after), *money, "-o", str(out)]) == 0

    text = out.read_text()
    assert "-0.000000000002000 USD; red is more, blue is less" in text
    assert "-0.000000000003 USD, -100.00 %" in text


def test_difference_as_file(folded: str, tmp_path: Path) -> None:
    """Programs get both sides; folded text has no room for them."""
    out = tmp_path / "diff.json"

    assert main(["flamegraph", "diff", folded, folded]) == 2
    assert main(["flamegraph", "diff", folded, folded, "-o", str(out)]) == 0

    names = [one["name"] for one in json.loads(out.read_text())["profiles"]]
    assert names == ["samples before", "samples", "both"]


def test_traces_of_ranks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each rank below a frame of its own; who waited for whom is known from both; steps filter."""
    name = "ncclDevKernel_AllReduce_Sum_f32_RING_LL"
    facts = {"Collective name": "allreduce", "Process Group Name": "0", "Seq": 1}
    files: list[str] = []
    for rank, start_us in ((0, 10), (1, 40)):
        events = [
            step(1, 0, 100),
            step(2, 100, 10),
            launch(5, 1),
            kernel(name, start_us, 90 - start_us, 1, facts={**facts, "Group size": 2}),
        ]
        path = save(tmp_path / f"rank{rank}.json", document(events, rank=rank))
        files.append(str(path))

    assert main(["flamegraph", "build", *files, "--jobs", "1", "--steps", "1"]) == 0

    assert sorted(capsys.readouterr().out.splitlines()) == [
        f"rank 0;[exposed_communication];{name} 50000",
        "rank 0;[host_wait] 10000",
        f"rank 0;[straggler_wait];{name} 30000",
        f"rank 1;[exposed_communication];{name} 50000",
        "rank 1;[host_wait] 40000",
    ]
    assert main(["flamegraph", "build", *files, "--jobs", "1", "--steps", "7-9"]) == 2
    assert "no stack is left: none is of --steps 7-9; 2 steps have" in capsys.readouterr().err


def test_a_missing_file_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A graph without a file that was named would be taken for the whole: exit status 1."""
    events = [step(1, 0, 100), launch(5, 1), kernel("gemm", 5, 90, 1)]
    good = save(tmp_path / "rank0.json", document(events, rank=0))
    cut = tmp_path / "rank1.json"
    cut.write_bytes(good.read_bytes()[:-9])

    assert main(["flamegraph", "build", str(good), str(cut), "--jobs", "1"]) == 1

    captured = capsys.readouterr()
    assert "gemm 90000" in captured.out
    assert "rank1.json: ends in the middle" in captured.err
    assert "not every file that was named is in this graph" in captured.err


def test_one_bad_file_among_good_ones(
    folded: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Good files are drawn whatever else was named; without any there is nothing to draw."""
    bad, cut = tmp_path / "bad.folded", tmp_path / "cut.json"
    bad.write_text("no stack\n")
    cut.write_text('{"traceEvents": [')

    assert main(["flamegraph", "top", folded, str(bad), str(cut)]) == 1
    said = capsys.readouterr().err
    assert (said.count("bad.folded"), said.count("cut.json")) == (1, 1)
    assert main(["flamegraph", "build", str(bad), str(cut)]) == 2
    said = capsys.readouterr().err
    assert (said.count("bad.folded"), said.count("cut.json")) == (1, 1)


def test_a_picture_is_no_profile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of what py-spy draws by itself nothing can be read: the message says what to record."""
    path = tmp_path / "profile.svg"
    path.write_text('<?xml version="1.0" standalone="no"?>\n<svg version="1.1"></svg>\n')

    assert main(["flamegraph", "build", str(path)]) == 2

    assert "is a picture or a page, which has no stacks" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong", [["--steps", "5-4"], ["--steps", "x"], ["--costliest-steps", "0"]]
)
def test_wrong_filters_are_usage(folded: str, wrong: list[str]) -> None:
    """A range that holds nothing is a slip of the pen."""
    assert main(["flamegraph", "build", folded, *wrong]) == 2


def test_only_the_ledger_needs_the_agents_packages(folded: str, tmp_path: Path) -> None:
    """With the extra `profiles` alone pictures are drawn; --ledger says which extra it needs."""
    program = (
        "import sys\n"
        "for name in ('sqlalchemy', 'pydantic', 'pydantic_settings', 'alembic', 'fastapi'):\n"
        "    sys.modules[name] = None\n"
        "from apportion.client.dispatch import main\n"
        "assert main(['flamegraph', 'build', sys.argv[1], '-o', sys.argv[2]]) == 0\n"
        "sys.exit(main(['flamegraph', 'build', sys.argv[1], '--ledger', 'x.db']))\n"
    )
    out = tmp_path / "flame.html"

    done = subprocess.run(
        [sys.executable, "-c", program, folded, str(out)],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )

    assert out.exists(), done.stderr
    assert done.returncode == 2
    assert "pip install 'apportion[agent,profiles]'" in done.stderr
