"""A recorded trace's requests are read whole or refused with file, line and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apportion.core.errors import TraceFileError
from apportion.cost.replay.requests_file import RequestRow, read_requests

HEADER = "request_id,start_s,first_token_s,finish_s,prompt_tokens,cached_tokens,output_tokens"
GOOD = "r1,0.5,0.75,2.000000001,100,20,8"


def written(folder: Path, *lines: str) -> Path:
    path = folder / "requests.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_row_keeps_every_digit(tmp_path: Path) -> None:
    """Times are exact to the nanosecond, not to a float."""
    (row,) = read_requests(written(tmp_path, HEADER, GOOD))
    assert row == RequestRow("r1", 500_000_000, 750_000_000, 2_000_000_001, 100, 20, 8, "")


def test_columns_are_found_by_name(tmp_path: Path) -> None:
    """Order, aliases, extra columns, a byte-order mark and CRLF change nothing."""
    path = tmp_path / "requests.csv"
    path.write_bytes(
        "\ufeffnote,completion_tokens,tenant,finish_s,start_s,input_tokens,request_id,"
        "first_token_s,cached_input_tokens\r\nx,8,acme,2.000000001,0.5,100,r1,0.75,20\r\n".encode()
    )
    (row,) = read_requests(path)
    assert row == RequestRow("r1", 500_000_000, 750_000_000, 2_000_000_001, 100, 20, 8, "acme")


def test_absent_facts_are_absent(tmp_path: Path) -> None:
    """No cached column is none cached; no first token is None, not 0."""
    header = HEADER.replace("cached_tokens,", "")
    (row,) = read_requests(written(tmp_path, header, "r1,0,,1,100,0"))
    assert (row.cached_input_tokens, row.first_token_ns) == (0, None)


def test_the_same_row_twice_counts_once(tmp_path: Path) -> None:
    """Duplicate delivery is the same fact again, in whatever order."""
    other = "r0,0,0.1,0.4,5,0,2"
    once = read_requests(written(tmp_path, HEADER, GOOD, other))
    assert read_requests(written(tmp_path, HEADER, other, GOOD, "", GOOD, other)) == once


@pytest.mark.parametrize(
    ("lines", "line", "message"),
    [
        ([HEADER], None, "no request"),
        (["request_id,start_s", GOOD], 1, "has no first_token_s, finish_s"),
        ([HEADER + ",input_tokens", GOOD + ",1"], 1, "prompt_tokens twice"),
        ([HEADER, "r1,0,0.5"], 2, "3 fields"),
        ([HEADER, GOOD, ",0,0.1,1,1,0,1"], 3, "request_id must be"),
        ([HEADER, GOOD, GOOD.replace("100", "101")], 3, "differs from line 2"),
        ([HEADER, "r1,0,0.5,nan,1,0,1"], 2, "finish_s 'nan' is not a time"),
        ([HEADER, "r1,0,0.5,inf,1,0,1"], 2, "finish_s 'inf' is not a time"),
        ([HEADER, "r1,0,0.5,1e30,1,0,1"], 2, "give seconds, not milli"),
        ([HEADER, "r1,0,0.5,1700000000000,1,0,1"], 2, "give seconds, not milli"),
        ([HEADER, "r1,2,,1,1,0,0"], 2, "finish_s is before start_s"),
        ([HEADER, "r1,0,3,1,1,0,1"], 2, "first_token_s is not between"),
        ([HEADER, "r1,0,0.5,1,1,2,1"], 2, "cached_tokens is above"),
        ([HEADER, "r1,0,,1,1,0,2"], 2, "no first_token_s"),
        ([HEADER, "r1,0,0.5,1,-1,0,1"], 2, "prompt_tokens '-1' is not a whole number"),
        ([HEADER, "r1,0,0.5,1,1.5,0,1"], 2, "prompt_tokens '1.5' is not a whole number"),
        ([HEADER, "r1,0,0.5,1,99999999999,0,1"], 2, "is above 1000000000"),
        ([HEADER, '"r1,0,0.5,1,1,0,1'], 2, "is not CSV"),
    ],
)
def test_what_it_cannot_be_is_refused(
    tmp_path: Path, lines: list[str], line: int | None, message: str
) -> None:
    """Each malformed file is named with its line and what to do."""
    path = written(tmp_path, *lines)
    with pytest.raises(TraceFileError) as refusal:
        read_requests(path)
    assert message in str(refusal.value)
    assert refusal.value.path == path
    if line is not None:
        assert refusal.value.line == line


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    """Bytes that are no UTF-8, no file, an empty file: refused, not raised through."""
    path = tmp_path / "requests.csv"
    for content, message in ((b"a\n\xff\xfe", "not UTF-8"), (b"", "is empty")):
        path.write_bytes(content)
        with pytest.raises(TraceFileError, match=message):
            read_requests(path)
    with pytest.raises(TraceFileError, match="No such file"):
        read_requests(tmp_path / "absent.csv")


@given(content=st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_any_bytes_are_rows_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    """Fuzz: nothing but our own error ever comes out."""
    path = tmp_path_factory.mktemp("fuzz") / "requests.csv"
    path.write_bytes(content)
    try:
        read_requests(path)
    except TraceFileError as refusal:
        assert str(path) in str(refusal)  # noqa: PT017 - the other way out is no error


@given(cells=st.lists(st.text(max_size=12), min_size=7, max_size=7))
def test_any_cells_are_a_row_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, cells: list[str]
) -> None:
    """Fuzz of one row under a right header."""
    path = tmp_path_factory.mktemp("fuzz") / "requests.csv"
    path.write_text(f"{HEADER}\n{','.join(cells)}\n", newline="")
    try:
        read_requests(path)
    except TraceFileError as refusal:
        assert str(path) in str(refusal)  # noqa: PT017 - the other way out is no error
