"""`apportion prices`: import, list, quote, diff, check."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from apportion.agent.cli import main
from apportion.cost.rate import PriceTable

VMS = """\
InstanceType,AcceleratorName,AcceleratorCount,Price,SpotPrice,Region
h100x8,H100,8,23.60,10.00,eu-north1
h100x1,H100,1,2.95,1.25,eu-north1
l40s,L40S,1,1.80,,eu-west1
cpu,,0,0.1,,eu-west1
"""
QUOTE = ["--cloud", "nebius", "--region", "eu-north1", "--instance-type", "h100x8"]


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    folder = tmp_path / "nebius"
    folder.mkdir()
    path = folder / "vms.csv"
    path.write_text(VMS)
    return path


@pytest.fixture
def table(tmp_path: Path, catalogue: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    path = tmp_path / "prices.yaml"
    assert run_import(catalogue, path) == 0
    capsys.readouterr()
    return path


def run_import(catalogue: Path, into: Path, *more: str, as_of: str = "2026-10-01") -> int:
    options = ["--into", str(into), "--as-of", as_of, *more]
    return main(["prices", "import", "skypilot", str(catalogue), *options])


def test_an_imported_table_is_one(table: Path) -> None:
    """What is written is what the agent reads: eight devices share an instance's price."""
    rates = PriceTable.load(table).rates
    assert len(rates) == 5
    assert {rate.per_hour for rate in rates if rate.device_name == "NVIDIA L40S"} == {"1.8"}
    assert {str(rate.as_of) for rate in rates} == {"2026-10-01"}
    assert {rate.source for rate in rates} == {"skypilot nebius"}


def test_importing_again_replaces_only_its_own_rows(
    table: Path, tmp_path: Path, catalogue: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another cloud's rows stay; what changed and what is gone is counted."""
    other = tmp_path / "lambda.csv"
    other.write_text(VMS)
    assert run_import(other, table) == 0
    catalogue.write_text(VMS.replace("23.60", "24").replace("l40s,", "l40s-new,"))
    capsys.readouterr()
    assert run_import(catalogue, table) == 0
    said = capsys.readouterr()
    assert "10 in all; 2 new or changed, 1 gone" in said.out
    assert "left out 1: no accelerator" in said.err
    assert {rate.source for rate in PriceTable.load(table).rates} == {
        "skypilot nebius",
        "skypilot lambda",
    }
    text = table.read_text()
    assert run_import(catalogue, table) == 0
    assert table.read_text() == text


@pytest.mark.parametrize(
    ("change", "more", "message"),
    [
        (("23.60", "x"), [], "vms.csv:2: the price 'x' is not money"),
        (("H100", "H100"), ["--as-of", "2999-01-01"], "is in the future"),
        (("H100", "H100"), ["--currency", "XQZ"], "not a code of ISO 4217"),
        (("H100", "H100"), ["--strict"], "nothing was written, --strict: 1 x no accelerator"),
        (("H100", "H100"), ["--device", "T4"], "there is no row to write"),
    ],
)
def test_nothing_is_half_imported(
    tmp_path: Path,
    catalogue: Path,
    capsys: pytest.CaptureFixture[str],
    change: tuple[str, str],
    more: list[str],
    message: str,
) -> None:
    """A refusal leaves no table, and no temporary file either."""
    catalogue.write_text(VMS.replace(*change))
    into = tmp_path / "prices.yaml"
    assert run_import(catalogue, into, *more) == 2
    said = capsys.readouterr()
    assert (said.out, message in said.err) == ("", True)
    assert [path.name for path in tmp_path.iterdir()] == ["nebius"]


def test_a_table_that_a_person_wrote_is_left_alone(
    tmp_path: Path, catalogue: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An import would lose its comments."""
    into = tmp_path / "prices.yaml"
    mine = "# mine\n- {device: T4, per_hour: '0.3', currency: USD, covers: gpu, basis: list, "
    mine += "source: me, as_of: 2026-01-01}\n"
    into.write_text(mine)
    assert run_import(catalogue, into) == 2
    assert "import into another" in capsys.readouterr().err
    assert into.read_text() == mine


def test_a_quote_says_by_which_row(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What it costs per device, from where and how old; a cloud's name of the device will do."""
    arguments = ["prices", "quote", str(table), "H100-SXM", *QUOTE, "--capacity", "spot"]
    assert main([*arguments, "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["per_hour"], row["device"]) == ("1.25", "NVIDIA H100 80GB HBM3")
    assert (row["source"], row["as_of"]) == ("skypilot nebius", "2026-10-01")
    assert row["age_days"] >= 0
    number: int = row["line"]
    line = table.read_text().splitlines()[number - 1]
    assert line.startswith("- device: NVIDIA H100")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["H100", *QUOTE], "none matches this node; they ask for capacity, cloud"),
        (["H100"], "none matches this node"),
        (["T4", *QUOTE], "no row for this device"),
    ],
)
def test_no_unique_row_is_no_price(
    table: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    """Never the first row: exit status 1 and the reason."""
    assert main(["prices", "quote", str(table), *arguments]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert reason in said.err


def test_a_quote_for_people_is_a_fact_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is asked about a price: how much, by whom, how old, where, and what else is billed."""
    table = tmp_path / "prices.csv"
    table.write_text(
        "device,per_hour,currency,covers,basis,source,as_of,from,to,match.capacity,granularity,"
        "minimum,committed_devices,unit,devices\n"
        "H100,16,EUR,gpu+host,contract,a contract,2020-01-01,2020-01-01,2200-01-01,reserved,1,60,"
        "16,instance,8\n"
    )
    assert main(["prices", "quote", str(table), "H100", "--capacity", "reserved"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if not line.startswith("as of")] == [
        "device     NVIDIA H100 80GB HBM3",
        "price      2 EUR per device-hour, for gpu+host",
        "basis      contract",
        "source     a contract",
        "holds      from 2020-01-01T00:00:00Z to 2200-01-01T00:00:00Z",
        "on nodes   capacity=reserved",
        "billed     in whole 1 s, at least 60 s",
        "committed  16 devices, used or not",
        f"row        {table}:2",
    ]
    assert any(line.endswith("days ago: look it up again") for line in said)


def test_a_newcomer_asks_without_a_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The built-in table answers, and says what it is; a MIG instance has its share of it."""
    monkeypatch.setenv("APPORTION_CONFIG", "")
    assert main(["prices", "quote", "H100"]) == 0
    said = capsys.readouterr().out
    assert "2.95 USD per device-hour" in said
    assert "basis      list-estimate: an estimate, no price of yours" in said
    assert main(["prices", "quote", "built-in", "H100 MIG 3g.40gb"]) == 0
    assert "share      3/7 of NVIDIA H100 80GB HBM3, by compute slices" in capsys.readouterr().out
    assert main(["prices", "quote", "H10"]) == 1
    assert "no price in built-in: no row for this device; did you mean" in capsys.readouterr().err
    assert main(["prices", "list"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split()[:5] == ["DEVICE", "PER_HOUR", "CURRENCY", "COVERS", "BASIS"]
    assert header.split()[5:] == ["SOURCE", "AS_OF", "LINE"]
    assert len(rows) == 15


def test_on_a_node_its_own_table_and_placement_answer(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The price that the agent here would use; a flag asks for another node."""
    config = tmp_path / "apportion.yaml"
    config.write_text(
        f"prices: {table}\nplacement: {{cloud: nebius, region: eu-north1, "
        "instance_type: h100x8, capacity: on-demand}\n"
    )
    command = ["prices", "quote", "H100", "--config", str(config), "--format", "json"]
    assert main(command) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["per_hour"], row["table"]) == ("2.95", str(table))
    assert main([*command, "--capacity", "spot"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["per_hour"] == "1.25"
    config.write_text("prices: none\n")
    assert main(command) == 2
    assert "`prices: none`; name a table" in capsys.readouterr().err


def test_a_table_without_a_device_is_no_question(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One word that is a file is not looked for as a device."""
    assert main(["prices", "quote", str(table)]) == 2
    assert "is a file; name the device after the table" in capsys.readouterr().err


def test_a_spot_history_is_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Told which device and how many; kept under its instance type, beside others."""
    entry = {"AvailabilityZone": "us-east-1a", "ProductDescription": "Linux/UNIX"}
    prices = {"p5.48xlarge": ["32", "40"], "p4d.24xlarge": ["8"]}
    into = tmp_path / "spot.yaml"
    command: list[str] = []
    for instance, history in prices.items():
        points = [
            {
                **entry,
                "InstanceType": instance,
                "SpotPrice": price,
                "Timestamp": f"2026-05-0{day}T00:00:00Z",
            }
            for day, price in enumerate(history, 1)
        ]
        path = tmp_path / f"{instance}.json"
        path.write_text(json.dumps({"SpotPriceHistory": points}))
        command = ["prices", "import", "aws-spot", str(path), "--into", str(into)]
        command += ["--as-of", "2026-05-09"]
        assert main(command) == 2
        assert "say --device NAME and --devices N" in capsys.readouterr().err
        device = "H100" if instance.startswith("p5") else "A100"
        for wrong in ("0", "8.0", "99999", "x"):
            assert main([*command, "--device", device, "--devices", wrong]) == 2
        capsys.readouterr()
        assert main([*command, "--device", device, "--devices", "8"]) == 0
        assert f"rows of aws-spot {instance}" in capsys.readouterr().out
    quote = ["prices", "quote", str(into), "H100", "--zone", "us-east-1a", "--cloud", "aws"]
    quote += ["--instance-type", "p5.48xlarge", "--capacity", "spot", "--format", "json"]
    for at, price in (("2026-05-01T23:59", "4"), ("2026-05-02", "5")):
        assert main([*quote, "--at", at]) == 0
        (row,) = json.loads(capsys.readouterr().out)
        assert row["per_hour"] == price
    before = into.read_text()
    assert main([*command, "--region", "eu", "--device", "A100", "--devices", "8"]) == 2
    assert "no row to write; the table is left as it is" in capsys.readouterr().err
    assert into.read_text() == before


def test_a_device_that_is_not_known_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may be a new GPU or a slip: taken as named, and the person is told."""
    path = tmp_path / "custom.json"
    path.write_text('{"GPU": "0.95"}')
    into = str(tmp_path / "p.yaml")
    command = ["prices", "import", "opencost-json", str(path), "--into", into]
    assert main([*command, "--as-of", "2026-05-01", "--device", "L40X"]) == 0
    assert "'L40X' is not known here (did you mean L40" in capsys.readouterr().err


def test_diff_and_list(
    table: Path, tmp_path: Path, catalogue: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Changed, added and gone rows; equal tables differ in nothing."""
    other = tmp_path / "new.yaml"
    catalogue.write_text(VMS.replace("1.80", "1.70").replace("h100x1,", "h100x2,"))
    assert run_import(catalogue, other) == 0
    capsys.readouterr()
    assert main(["prices", "diff", str(table), str(other), "--format", "json"]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert sorted(row["change"] for row in rows) == ["added"] * 2 + ["changed"] + ["gone"] * 2
    (changed,) = [row for row in rows if row["change"] == "changed"]
    assert (changed["before"], changed["after"]) == ("1.8", "1.7")
    assert changed["differs"] == "per_hour"
    assert main(["prices", "diff", str(table), str(table)]) == 0
    assert capsys.readouterr().out == "no difference in any price\n"
    assert main(["prices", "diff", str(table), "built-in"]) == 1
    capsys.readouterr()
    assert main(["prices", "list", str(table), "--device", "L40S", "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["match"] == "capacity=on-demand,cloud=nebius,instance_type=l40s,region=eu-west1"


def test_check_names_what_is_doubtful(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each doubt with file and line, and a last line that says that the table is valid."""
    path = tmp_path / "prices.csv"
    good = "device,per_hour,currency,covers,basis,source,as_of\nT4,0.5,USD,gpu,list,s,2999-01-01\n"
    path.write_text(good)
    assert main(["prices", "check", str(path)]) == 1
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{path}:2: as_of 2999-01-01 of the price is in the future")
    assert last == f"{path}: valid; 1 row in USD, 1 doubt"
    path.write_text(good.replace("USD", "XQZ"))
    assert main(["prices", "check", str(path)]) == 2
    assert f"{path}:2: currency 'XQZ' is not a currency" in capsys.readouterr().err
