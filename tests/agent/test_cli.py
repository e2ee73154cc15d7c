"""The command line: formats, exit statuses, one line instead of a traceback."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cost.rollups.two_days import two_days
from tests.postgres import PostgresServer

from apportion.agent.cli import main
from apportion.agent.cli.command import MODULES
from apportion.agent.cli.instant import unix_ns_of
from apportion.agent.cli.listing import render
from apportion.agent.config_layers import flag, keys
from apportion.core.errors import ConfigError
from apportion.cost.ledger.migration import REVISION

NOW_NS = 1_780_000_000 * 10**9
HOUR_NS = 3_600 * 10**9


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What this machine's variables say must not decide a test."""
    for name in os.environ:
        if name.startswith("APPORTION_"):
            monkeypatch.delenv(name)
    empty = tmp_path / "none.yaml"
    empty.write_text("", encoding="utf-8")
    monkeypatch.setenv("APPORTION_CONFIG", str(empty))


@pytest.mark.parametrize("name", MODULES)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each listed command loads, describes itself and exits with 0."""
    assert main([name, "--help"]) == 0
    assert f"usage: apportion {name}" in capsys.readouterr().out


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """A person who types the bare name learns what there is."""
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {name} " in listed for name in MODULES)


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["once"], ["audit", "--nonsense"]])
def test_wrong_usage_exits_with_two(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Usage goes to stderr, nothing to stdout."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "usage:" in captured.err


def test_a_refusal_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is wrong with a person's input is said in a line, with status 2."""
    path = tmp_path / "apportion.yaml"
    path.write_text("mode: x\n", encoding="utf-8")
    assert main(["check-config", "--config", str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"apportion: {path}:1: mode: ")
    assert captured.err.count("\n") == 1


def test_an_empty_period_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A report of no time would look like one of a ledger without cost."""
    assert main(["report", "--since", "2026-11-27", "--until", "2026-11-26"]) == 2
    assert "--since must be before --until" in capsys.readouterr().err


def test_no_room_for_the_output_is_said() -> None:
    """A full disk under a report is no traceback."""
    program = "import sys; from apportion.agent.cli import main; sys.exit(main(['prices', 'list']))"
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", program],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (
        1,
        "apportion: cannot write: No space left on device\n",
    )


def test_check_config_shows_every_key_and_its_origin(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All layers are visible, and a password is not."""
    monkeypatch.setenv("APPORTION_LEDGER", "postgresql://ann:secret@db/x")
    assert main(["check-config", "--format", "json", "--labels-max-models", "7"]) == 0
    output = capsys.readouterr().out
    assert "secret" not in output
    rows = {row["key"]: row for row in json.loads(output)}
    assert set(rows) == set(keys())
    assert rows["labels.max_models"] == {
        "key": "labels.max_models",
        "value": 7,
        "origin": flag("labels.max_models"),
    }
    assert rows["ledger"]["origin"] == "APPORTION_LEDGER"


def test_check_config_has_a_status_for_problems(capsys: pytest.CaptureFixture[str]) -> None:
    """Valid keys that name an unusable price table are a problem, not a refusal."""
    assert main(["check-config", "--prices", "/no/such/table.yaml"]) == 1
    captured = capsys.readouterr()
    assert "problem: /no/such/table.yaml: cannot be read" in captured.err
    assert "prices" in captured.out


def test_once_reads_a_collector(capsys: pytest.CaptureFixture[str]) -> None:
    """The host can always be read, in full as JSON."""
    assert main(["once", "--collector", "host", "--format", "json", "--period", "0.05"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["success"] is True
    assert result["readings"]
    assert main(["once", "--collector", "host", "--format", "csv", "--period", "0.05"]) == 0
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert table[0]["device"] == result["devices"][0]["device"]


def test_once_scrapes_what_it_is_given(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Recorded texts by path, several of them; samples as a table where there are no readings."""
    folder = repository / "tests/collectors/fixtures"
    urls = ("--engine-url", str(folder / "engines/vllm.prom"))
    more = ("--engine-url", f"file://{folder}/engines/sglang.prom")
    assert main(["once", "--collector", "engines", "--period", "0.01", *urls, *more]) == 0
    table = capsys.readouterr().out
    assert "engine_requests_running" in table
    assert "engine=sglang" in table
    dcgm = ("--collector", "dcgm", "--dcgm-url", str(folder / "dcgm/whole.prom"))
    assert main(["once", *dcgm, "--period", "0.01", "--format", "json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["readings"][0]["energy_source"] == "energy_counter"
    nowhere = ("--dcgm-url", str(folder / "missing"))
    assert main(["once", "--collector", "dcgm", "--period", "0.01", *nowhere]) == 1
    assert "No such file" in capsys.readouterr().err


def test_once_takes_other_roots(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty procfs is no data: a reason and status 1, not a crash."""
    roots = ["--proc-root", str(tmp_path), "--sys-root", str(tmp_path)]
    assert main(["once", "--collector", "host", "--period", "0.05", *roots]) == 1
    assert capsys.readouterr().err.startswith("host: ")


def test_once_tells_nothing_read_from_nothing_to_tell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 1 where nothing was read; 0, and a sentence, where a source is there and quiet."""
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    slurm = ["once", "--collector", "slurm", "--period", "0.01", "--job-mapping-dir", str(jobs)]
    assert main(slurm) == 0
    assert capsys.readouterr().err == "slurm: it was read, and has nothing to tell now\n"
    (jobs / "passwd").touch()
    assert main(slurm) == 1
    assert capsys.readouterr().err == (
        f"slurm: {jobs} has no job mapping: none of 1 files in it is called by a GPU's index or "
        "UUID\n"
    )


def test_the_doctor_reports_in_each_format(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 0 where nothing fails, 1 where something does."""
    flags = [
        *("--devices", "cpu", "--ring-dir", str(tmp_path / "r")),
        *("--state-dir", str(tmp_path / "s"), "--lock-dir", str(tmp_path / "l")),
    ]
    assert main(["doctor", "--format", "json", *flags]) == 0
    findings = json.loads(capsys.readouterr().out)
    assert {finding["level"] for finding in findings} <= {"ok", "warn"}
    assert main(["doctor", "--prices", "/no/such", *flags]) == 1
    assert "fail   price" in capsys.readouterr().out


def test_a_ledger_is_made_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`ledger migrate` creates it once, and says so when there is nothing to do."""
    path = tmp_path / "ledger.db"
    assert main(["ledger", "migrate", "--ledger", str(path)]) == 0
    assert capsys.readouterr().out.startswith("created with schema ")
    assert main(["ledger", "migrate", "--ledger", str(path)]) == 0
    assert capsys.readouterr().out.startswith("already at schema ")


def test_the_shared_ledger_of_the_configuration(
    tmp_path: Path, postgres: PostgresServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """With `--shared` nobody has to write a password where every user of the host can read it."""
    config = tmp_path / "apportion.yaml"
    with postgres.database() as name:
        config.write_text(f"shared_ledger: {postgres.url(name)}\n")
        shared = ["--shared", "--config", str(config)]
        assert main(["audit", *shared]) == 2
        assert "run `apportion ledger migrate --ledger postgresql" in capsys.readouterr().err
        assert main(["ledger", "migrate", *shared]) == 0
        assert capsys.readouterr().out == f"created with schema {REVISION}\n"
        assert main(["audit", *shared]) == 0
        assert main(["report", *shared]) == 0
        said = capsys.readouterr()
        assert said.err == ""
        assert "Nothing is settled in this period." in said.out
        assert postgres.password not in said.out
    assert main(["audit", "--shared", "--ledger", "x"]) == 2
    config.write_text("")
    assert main(["audit", *shared]) == 2
    assert "names no `shared_ledger`" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["report", "audit"])
def test_a_ledger_that_is_not_there_is_refused(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reading never creates a ledger."""
    path = tmp_path / "ledger.db"
    assert main([command, "--ledger", str(path)]) == 2
    assert str(path) in capsys.readouterr().err
    assert not path.exists()


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_an_empty_ledger_is_reported_and_clean(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A ledger without a line adds up, in every format, over any period."""
    path = tmp_path / "ledger.db"
    assert main(["ledger", "migrate", "--ledger", str(path)]) == 0
    capsys.readouterr()
    assert main(["audit", "--ledger", str(path), "--format", form]) == 0
    assert capsys.readouterr().out
    period = ["--since", "24h", "--until", "now", "--by", "workload,tenant"]
    assert main(["report", "--ledger", str(path), "--format", form, *period]) == 0
    output = capsys.readouterr().out
    if form == "json":
        json.loads(output)


def test_a_report_of_days_and_of_then(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By day, the dearest rows, rolled up or not, now or as of then: the same command."""
    path = tmp_path / "ledger.db"
    two_days().ledger(path).close()
    ledger = ["--ledger", str(path)]
    by_day = ["report", *ledger, "--by", "workload,day", "--format", "csv"]
    assert main(by_day) == 0
    before = capsys.readouterr().out
    assert main(["ledger", "rollup", *ledger]) == 0
    assert capsys.readouterr().out.startswith("rolled up in ")
    assert main(by_day) == 0
    assert capsys.readouterr().out == before
    assert [row["day"] for row in csv.DictReader(io.StringIO(before))] == [
        "2023-11-14",
        "2023-11-15",
        "2023-11-16",
        "2023-11-17",
    ]
    assert main([*by_day, "--top", "1"]) == 0
    top = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["workload"], row["day"]) for row in top] == [
        ("serve", "2023-11-15"),
        ("(other)", "(other)"),
    ]
    assert main([*by_day, "--as-of", "2023-11-16T12:30:00"]) == 0
    then = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["day"] for row in then] == ["2023-11-14", "2023-11-15", "2023-11-16"]
    assert main([*by_day, "--top", "0"]) == 2
    assert "no number of rows" in capsys.readouterr().err


@pytest.mark.needs_module("pyarrow")
def test_a_ledger_is_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`ledger export` says how many rows of what it wrote, in how many files."""
    path, out = tmp_path / "ledger.db", tmp_path / "out"
    two_days().ledger(path).close()
    period = ["--since", "2023-11-15", "--until", "2023-11-16"]
    assert main(["ledger", "export", str(out), "--ledger", str(path), *period]) == 0
    said = capsys.readouterr().out
    assert said == f"{out}: 48 lines, 24 spans, 48 meter, 0 hours, in 3 files\n"
    assert len(list(out.rglob("*.parquet"))) == 3


def test_a_wrong_dimension_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The known ones are named."""
    path = tmp_path / "ledger.db"
    assert main(["ledger", "migrate", "--ledger", str(path)]) == 0
    assert main(["report", "--ledger", str(path), "--by", "colour"]) == 2
    assert "tenant" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "unix_ns"),
    [
        ("now", NOW_NS),
        ("24h", NOW_NS - 24 * HOUR_NS),
        ("7d", NOW_NS - 7 * 24 * HOUR_NS),
        ("90m", NOW_NS - 3 * HOUR_NS // 2),
        ("1970-01-02", 24 * HOUR_NS),
        ("1970-01-01T01:00", HOUR_NS),
        ("1970-01-01T01:00:00Z", HOUR_NS),
        ("1970-01-01 03:00+02:00", HOUR_NS),
    ],
)
def test_instants_are_utc_or_before_now(text: str, unix_ns: int) -> None:
    """A report's period is what was written, to the nanosecond."""
    assert unix_ns_of(text, NOW_NS) == unix_ns


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "20260501", "-1h", ""])
def test_a_wrong_instant_is_refused_with_examples(text: str) -> None:
    """The message shows what can be written."""
    with pytest.raises(ConfigError, match="24h"):
        unix_ns_of(text, NOW_NS)


CELLS = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=12))


@given(st.lists(st.fixed_dictionaries({"a": CELLS, "b": CELLS}), max_size=5))
def test_a_list_has_a_line_for_each_row(rows: list[dict[str, object]]) -> None:
    """In no format can a value break out of its row."""
    assert render(rows, ("a", "b"), "table").count("\n") == len(rows) + 1
    assert json.loads(render(rows, ("a", "b"), "json")) == rows
    assert len(list(csv.reader(io.StringIO(render(rows, ("a", "b"), "csv"))))) == len(rows) + 1


def test_a_reader_that_goes_away_is_no_error() -> None:
    """`apportion ... | head -1` ends quietly."""
    program = "from apportion.agent.cli import main; raise SystemExit(main(['check-config']))"
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", program],
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
        timeout=60,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")
