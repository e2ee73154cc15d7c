"""Price tables: what they say exactly, and what they refuse with file and line."""

from __future__ import annotations

from datetime import date
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apportion.core.errors import PriceTableError
from apportion.core.units import NS_PER_SECOND
from apportion.cost.prices.billing import AS_METERED, BillingRule
from apportion.cost.rate import MAX_BYTES, MAX_ROWS, PriceTable, Rate

H100 = "NVIDIA H100 80GB HBM3"
DAY_NS = 86_400 * 10**9
MAY_FIRST_NS = 1_777_593_600 * 10**9
"""2026-05-01T00:00:00Z."""

ROW = f"""\
- device: {H100}
  per_hour: "2.40"
  currency: USD
  covers: gpu
  basis: list-estimate
  source: a test
  as_of: 2026-05-01
"""


def _table(tmp_path: Path, text: str) -> PriceTable:
    path = tmp_path / "prices.yaml"
    path.write_text(text, encoding="utf-8")
    return PriceTable.load(path)


def _refusal(tmp_path: Path, text: str) -> PriceTableError:
    with pytest.raises(PriceTableError) as caught:
        _table(tmp_path, text)
    return caught.value


def _row(**changes: str) -> str:
    fields = {
        "device": H100,
        "per_hour": '"2.40"',
        "currency": "USD",
        "covers": "gpu",
        "basis": "list",
        "source": "a test",
        "as_of": "2026-05-01",
    }
    fields.update({key.rstrip("_"): value for key, value in changes.items()})
    lines = [f"  {key}: {value}" for key, value in fields.items() if value]
    return "-" + "\n".join(lines)[1:] + "\n"


def test_a_row_says_all_that_a_ledger_line_needs(tmp_path: Path) -> None:
    """A rate carries its exact amount and where it came from."""
    assert _table(tmp_path, ROW).rates == (
        Rate(
            device_name=H100,
            units_per_hour=Fraction(2_400_000_000_000),
            per_hour="2.40",
            currency="USD",
            covers="gpu",
            basis="list-estimate",
            source="a test",
            as_of=date(2026, 5, 1),
        ),
    )


def test_rows_may_stand_under_the_key_prices(tmp_path: Path) -> None:
    """Both documented shapes of the file mean the same."""
    nested = "prices:\n" + "".join(f"  {line}\n" for line in ROW.splitlines())
    assert _table(tmp_path, nested).rates == _table(tmp_path, ROW).rates


def test_an_instance_is_shared_evenly_and_exactly(tmp_path: Path) -> None:
    """A third of 10 is kept as a fraction; only its display is rounded."""
    (rate,) = _table(
        tmp_path, _row(per_hour='"10"', unit="instance", devices="3", covers="gpu+host")
    ).rates
    assert rate.units_per_hour == Fraction(10**13, 3)
    assert rate.per_hour == "3.333333333333"


def test_an_even_share_of_an_instance_is_shown_exactly(tmp_path: Path) -> None:
    """98.32 for eight devices is 12.29 a device."""
    (rate,) = _table(tmp_path, _row(per_hour='"98.32"', unit="instance", devices="8")).rates
    assert rate.per_hour == "12.29"


@given(st.integers(0, 9_000_000), st.integers(0, 10**12 - 1), st.integers(1, 1024))
def test_no_price_is_rounded(
    tmp_path_factory: pytest.TempPathFactory, whole: int, decimals: int, devices: int
) -> None:
    """Devices times the rate is the price as written, for any price with twelve decimals."""
    tmp_path = tmp_path_factory.mktemp("prices")
    text = f'"{whole}.{decimals:012d}"'
    (rate,) = _table(tmp_path, _row(per_hour=text, unit="instance", devices=str(devices))).rates
    assert rate.units_per_hour * devices == whole * 10**12 + decimals


def test_a_device_without_a_row_has_no_rate(tmp_path: Path) -> None:
    """No match is None: neither zero nor the first row."""
    table = _table(tmp_path, ROW)
    assert table.rate_for("NVIDIA H100", MAY_FIRST_NS) is None
    assert PriceTable().rate_for(H100, MAY_FIRST_NS) is None
    assert PriceTable().currency is None


def test_validity_is_half_open_and_in_utc(tmp_path: Path) -> None:
    """`from` belongs to a rate, `to` to its successor; before the first there is none."""
    table = _table(
        tmp_path,
        _row(per_hour='"1"', from_="2026-05-01", to="2026-05-02")
        + _row(per_hour='"2"', from_="2026-05-02T02:00:00+02:00"),
    )
    at = [MAY_FIRST_NS - 1, MAY_FIRST_NS, MAY_FIRST_NS + DAY_NS - 1, MAY_FIRST_NS + DAY_NS]
    found = [table.rate_for(H100, unix_ns) for unix_ns in at]
    assert [rate and rate.per_hour for rate in found] == [None, "1", "1", "2"]


def test_changes_are_the_instants_strictly_inside(tmp_path: Path) -> None:
    """An interval is cut exactly where its rate changes, once where two rates meet."""
    later = MAY_FIRST_NS + 3 * DAY_NS
    table = _table(
        tmp_path,
        _row(from_="2026-05-01", to="2026-05-02")
        + _row(per_hour='"3"', from_="2026-05-02 00:00", to="2026-05-04T00:00:00.000Z"),
    )
    assert table.changes(H100, 0, later + 1) == (MAY_FIRST_NS, MAY_FIRST_NS + DAY_NS, later)
    assert table.changes(H100, MAY_FIRST_NS, later) == (MAY_FIRST_NS + DAY_NS,)
    assert table.changes("another", 0, later) == ()


@given(st.lists(st.integers(0, 60), min_size=2, max_size=8, unique=True), st.data())
def test_the_rate_is_constant_between_changes(
    tmp_path_factory: pytest.TempPathFactory, days: list[int], data: st.DataObject
) -> None:
    """Between two neighbouring changes any two instants have the same rate."""
    days.sort()
    rows = [
        _row(
            per_hour=f'"{index}"',
            from_=str(date.fromordinal(date(2026, 5, 1).toordinal() + start)),
            to=str(date.fromordinal(date(2026, 5, 1).toordinal() + end)),
        )
        for index, (start, end) in enumerate(zip(days[::2], days[1::2], strict=False))
    ]
    table = _table(tmp_path_factory.mktemp("prices"), "".join(rows))
    end_ns = MAY_FIRST_NS + 70 * DAY_NS
    edges = [MAY_FIRST_NS, *table.changes(H100, MAY_FIRST_NS, end_ns), end_ns]
    for start, end in pairwise(edges):
        inside = data.draw(st.integers(start, end - 1))
        assert table.rate_for(H100, inside) == table.rate_for(H100, start)


def test_a_float_is_refused_with_the_remedy(tmp_path: Path) -> None:
    """2.40 without quotes is a binary float: the message says to quote it, and on which line."""
    error = _refusal(tmp_path, ROW.replace('"2.40"', "2.40"))
    assert error.line == 2
    assert 'quote it: per_hour: "2.40"' in str(error)
    assert "prices.yaml:2:" in str(error)


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        (_row(per_hour='"-1"'), 2, "negative"),
        (_row(per_hour="-1.5"), 2, "negative"),
        (_row(per_hour="3"), 2, "quote it"),
        (_row(per_hour='"1e3"'), 2, "decimal string"),
        (_row(per_hour='"1,5"'), 2, "decimal string"),
        (_row(per_hour='"٣"'), 2, "decimal string"),
        (_row(per_hour='"9300000"'), 2, "9.2 million"),
        (_row(currency=""), 1, "'currency'"),
        (_row(currency="dollars"), 3, "ISO 4217"),
        (_row(covers="everything"), 4, "gpu, gpu+host"),
        (_row(basis="guess"), 5, "list-estimate"),
        (_row(source='""'), 6, "text"),
        (_row(source='"two\\nlines"'), 6, "one line"),
        (_row(as_of="yesterday"), 7, "2026-05-01"),
        (_row(as_of="2026-13-01"), 7, "2026-05-01"),
        (_row(as_of='"20260501"'), 7, "2026-05-01"),
        (_row(unit="instance"), 1, "needs `devices`"),
        (_row(devices="8"), 8, "unit: instance"),
        (_row(unit="instance", devices="0"), 9, "whole number"),
        (_row(unit="instance", devices="true"), 9, "whole number"),
        (_row(unit="rack"), 8, "device, instance"),
        (_row(from_="2026-05-02", to="2026-05-02"), 9, "not later"),
        (_row(from_="soon"), 8, "2026-05-01T12:00:00Z"),
        (_row(gpus="8"), 8, "unknown key 'gpus'"),
        (_row(to="9999-12-31"), 8, "leave it out where it is open"),
        (_row(from_="1969-12-31"), 8, "from 1970 to 2261"),
        (_row(from_="2261-12-31T23:00:00-14:00"), 8, "from 1970 to 2261"),
        (_row(unit="instance", devices="1025"), 9, "from 1 to 1024"),
        (_row(granularity="0"), 8, "granularity '0' is not a whole number from 1"),
        (_row(granularity="1.5"), 8, "granularity '1.5' is not a whole number"),
        (_row(granularity="1h"), 8, "granularity '1h' is not a whole number"),
        (_row(minimum="-60"), 8, "minimum '-60' is not a whole number from 0"),
        (_row(minimum="9" * 4000), 8, "minimum '999"),
        (_row(minimum="2678401"), 8, "from 0 to 2678400"),
        (_row(committed_devices="8"), 8, "needs `from` and `to`"),
        (_row(committed_devices="8", from_="2026-01-01"), 8, "needs `from` and `to`"),
        (
            _row(
                match="{capacity: spot}", committed_devices="8", from_="2026-01-01", to="2027-01-01"
            ),
            9,
            "`capacity: reserved` or `owned`",
        ),
        (_row(mig="even"), 8, "mig 'even' is not one of compute, memory"),
        (_row(source="x" * 5000), 6, "at most 200 characters"),
        (_row(basis="x" * 5000), 5, "xxx...' is not one of"),
        (_row(match='{zone: "a\\nb"}'), 8, "must be one line"),
        (_row(match='{labels: {"a\\nb": c}}'), 8, "must be one line"),
        (_row() + "- \x00\n", 8, "not YAML"),
        (_row() + _row(currency="EUR"), 8, "EUR beside USD of line 1"),
        (_row() + _row(), 8, "overlap those of line 1"),
        (_row(to="2026-06-01") + _row(from_="2026-05-31T23:59:59Z"), 9, "overlap"),
        (_row() + "  source: again\n", 8, "twice"),
        ("", 1, "empty"),
        ("[]", 1, "empty"),
        ("prices: []\n", 1, "empty"),
        ("rates: []\n", 1, "unknown key 'rates'"),
        ("prices: 5\n", 1, "list of rows"),
        ("- just text\n", 1, "a mapping"),
        ("- a: [1\n  b: 2\n", 2, "not YAML"),
        ("- !!python/object/apply:os.getcwd []\n", None, ""),
        ("- device: !!binary aGk=\n", 1, "tag"),
        ("---\na: 1\n---\nb: 2\n", 3, "not YAML"),
        ("[" * 20 + "]" * 20, 1, "nested deeper"),
        ("[" * 9000 + "]" * 9000, None, "nested deeper"),
        ("- ? [a, b]\n  : 1\n", 1, "plain word"),
    ],
)
def test_a_wrong_table_is_refused_by_line(
    tmp_path: Path, text: str, line: int | None, part: str
) -> None:
    """Each kind of mistake names the file, its line and what is wrong."""
    error = _refusal(tmp_path, text)
    assert part in str(error)
    assert str(tmp_path / "prices.yaml") in str(error)
    if line is not None:
        assert error.line == line


def test_aliases_cannot_expand_without_bound(tmp_path: Path) -> None:
    """A small file of aliases to aliases is refused instead of filling the memory."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 8)]
    assert "more than" in str(_refusal(tmp_path, "\n".join(lines)))


def test_a_file_that_cannot_be_a_price_table_is_refused(tmp_path: Path) -> None:
    """Too large, not text, a directory and a missing file are errors of their own."""
    assert "larger than" in str(_refusal(tmp_path, "#" * (MAX_BYTES + 1)))
    path = tmp_path / "prices.yaml"
    path.write_bytes(b"- a\n- \xff\xfe\n")
    with pytest.raises(PriceTableError, match="UTF-8") as caught:
        PriceTable.load(path)
    assert caught.value.line == 2
    with pytest.raises(PriceTableError, match="cannot be read"):
        PriceTable.load(tmp_path)
    with pytest.raises(PriceTableError, match="cannot be read"):
        PriceTable.load(tmp_path / "absent.yaml")


@given(st.text(max_size=200))
def test_no_text_gives_another_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """Whatever a file holds, loading either works or raises PriceTableError."""
    path = tmp_path_factory.mktemp("prices") / "prices.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    refusal = str(path)
    try:
        PriceTable.load(path)
    except PriceTableError as error:
        refusal = str(error)
    assert str(path) in refusal


def _matched(**match: str) -> str:
    asked = ", ".join(f"{key}: {value}" for key, value in match.items())
    return _row(match=f"{{{asked}}}")


def test_a_row_asks_for_nodes(tmp_path: Path) -> None:
    """One row a cloud: each node has its own price, and a node elsewhere has none."""
    text = _matched(cloud="a") + _matched(cloud="b", labels="{pool: x}").replace("2.40", "9")
    table = _table(tmp_path, text)
    placements: dict[str, dict[str, str]] = {
        "a": {"cloud": "a"},
        "b": {"cloud": "b", "labels.pool": "x"},
        "other pool": {"cloud": "b", "labels.pool": "y"},
        "nowhere": {},
    }
    prices = {
        name: table.at(placement).rate_for(H100, MAY_FIRST_NS)
        for name, placement in placements.items()
    }
    assert {name: rate and rate.per_hour for name, rate in prices.items()} == {
        "a": "2.40",
        "b": "9",
        "other pool": None,
        "nowhere": None,
    }


def test_rows_that_a_node_could_both_match_are_refused(tmp_path: Path) -> None:
    """Also where they ask about different things: nothing would say which of them holds."""
    for text in (
        _matched(cloud="a") + _row(),
        _matched(cloud="a") + _matched(region="r"),
        _matched(cloud="a", region="r") + _matched(region="r", cloud="a"),
    ):
        assert "ask for different nodes" in str(_refusal(tmp_path, text))
    table = _table(tmp_path, _matched(cloud="a", region="r") + _matched(cloud="b"))
    assert len(table.rates) == 2


def test_a_quote_gives_its_reason(tmp_path: Path) -> None:
    """Why there is no price is part of the answer."""
    table = _table(tmp_path, _matched(cloud="a") + _row(device="T4", from_="2026-06-01"))
    nowhere: dict[str, str] = {}
    assert table.quote(H100, {"cloud": "a"}, MAY_FIRST_NS).rate is not None
    assert "they ask for cloud" in table.quote(H100, nowhere, MAY_FIRST_NS).reason
    assert "no row is valid" in table.quote("Tesla T4", nowhere, MAY_FIRST_NS).reason
    assert table.quote("X", nowhere, MAY_FIRST_NS).reason == "no row for this device"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"match": "{planet: x}"}, "unknown key 'planet'"),
        ({"match": "[a]"}, "match is a mapping"),
        ({"match": "{capacity: best}"}, "capacity 'best' is not one of"),
        ({"match": "{cloud: [a]}"}, "cloud must be text"),
        ({"currency": "XQZ"}, "not a currency of ISO 4217"),
        ({"per_hour": '"0.0000000000001"'}, r"below 10\^-12"),
    ],
)
def test_what_a_row_cannot_ask_is_refused(
    tmp_path: Path, change: dict[str, str], message: str
) -> None:
    """With file and line, like everything else in a row."""
    with pytest.raises(PriceTableError, match=message):
        _table(tmp_path, _row(**change))


def test_billing_rules_and_commitments_are_facts_of_a_row(tmp_path: Path) -> None:
    """In seconds, as metered unless a row says otherwise; they are no part of the rate."""
    plain, ruled = _table(
        tmp_path,
        _row(device="T4")
        + _row(granularity="1", minimum="60", committed_devices="16", mig="memory").rstrip()
        + "\n  from: 2026-01-01\n  to: 2029-01-01\n  match: {capacity: reserved}\n",
    ).rates
    assert (plain.billing, plain.committed_devices, plain.mig_policy) == (
        AS_METERED,
        None,
        "compute",
    )
    assert ruled.billing == BillingRule(NS_PER_SECOND, 60 * NS_PER_SECOND)
    assert (ruled.committed_devices, ruled.mig_policy) == (16, "memory")
    assert ruled.units_per_hour == plain.units_per_hour


def test_a_mig_instance_pays_its_part_of_its_gpus_row(tmp_path: Path) -> None:
    """By the policy that the row names, with its dates and its nodes; the sum is the GPU's rate."""
    row = _row(per_hour='"10"', to="2026-06-01", mig="memory", granularity="60")
    table = _table(tmp_path, row + _row(device="Z1000", per_hour='"1"'))
    profiles = ["3g.40gb", "1g.10gb", "1g.20gb"]
    names = [f"{H100} MIG {profile}" for profile in profiles]
    names.append(f"{H100} MIG unallocated beside {','.join(profiles)}")
    rates = [table.rate_for(name, MAY_FIRST_NS) for name in names]
    assert [rate and rate.per_hour for rate in rates] == ["5", "1.25", "2.5", "1.25"]
    known = [rate for rate in rates if rate is not None]
    (gpu,) = table.rates_of(H100)
    assert sum(rate.units_per_hour for rate in known) == gpu.units_per_hour
    assert {rate.device_name for rate in known} == set(names)
    assert {(rate.billing, rate.line) for rate in known} == {(AS_METERED, 1)}
    assert table.changes(names[0], 0, MAY_FIRST_NS + 60 * DAY_NS) == (MAY_FIRST_NS + 31 * DAY_NS,)
    assert "no row is valid" in table.quote(names[0], {}, MAY_FIRST_NS + 31 * DAY_NS).reason


def test_a_row_for_the_instance_itself_holds_instead(tmp_path: Path) -> None:
    """Where an instance is what is rented, it has a price of its own."""
    name = f"{H100} MIG 1g.10gb"
    table = _table(tmp_path, _row() + _row(device="H100 MIG 1g.10gb", per_hour='"0.5"'))
    rate = table.rate_for(name, MAY_FIRST_NS)
    assert rate is not None
    assert (rate.per_hour, rate.device_name) == ("0.5", name)


def test_a_mig_instance_without_a_share_has_no_price(tmp_path: Path) -> None:
    """It is not guessed how a GPU is cut, and the quote says what is missing."""
    table = _table(tmp_path, _row(device="NVIDIA Z1000"))
    nowhere: dict[str, str] = {}
    unknown = table.quote("NVIDIA Z1000 MIG 1g.10gb", nowhere, MAY_FIRST_NS)
    assert "it is not known what part of NVIDIA Z1000 this is" in unknown.reason
    other = table.quote(f"{H100} MIG 1g.10gb", nowhere, MAY_FIRST_NS)
    assert other.reason == f"no row for this device, nor for {H100}"


def test_a_table_with_too_many_rows_is_refused(tmp_path: Path) -> None:
    """At the first that is too much, before each is read."""
    path = tmp_path / "prices.csv"
    path.write_text("device\n" + "T4\n" * (MAX_ROWS + 1))
    with pytest.raises(PriceTableError, match=f"more than {MAX_ROWS} rows") as caught:
        PriceTable.load(path)
    assert caught.value.line == MAX_ROWS + 2


def test_a_row_over_several_lines_of_csv_has_the_line_on_which_it_begins(tmp_path: Path) -> None:
    """A quoted line break moves no error to another row."""
    path = tmp_path / "prices.csv"
    head = "device,per_hour,currency,covers,basis,as_of,source\n"
    row = 'T4,0.3,USD,gpu,list,2026-01-01,"two\nlines"\n'
    for text, line in ((head + row, 2), (head + row.replace("two\n", "two ") + row, 3)):
        path.write_text(text)
        with pytest.raises(PriceTableError, match="source must be one line") as caught:
            PriceTable.load(path)
        assert caught.value.line == line
    path.write_text(head + row.replace('lines"', "lines"))
    with pytest.raises(PriceTableError, match="is not CSV") as caught:
        PriceTable.load(path)
    assert caught.value.line == 2


def test_a_csv_table_says_the_same(tmp_path: Path) -> None:
    """Columns by name in any order, lines counted, a cloud's name of the device translated."""
    path = tmp_path / "prices.csv"
    path.write_text(
        "as_of,device,unit,devices,per_hour,currency,covers,basis,source,match.cloud,"
        "match.labels.pool\n"
        "2026-05-01,H100-SXM,instance,8,98.32,USD,gpu+host,list,a test,aws,x\n"
        "2026-05-01,T4,,,0.35,USD,gpu,list,a test,,\n"
    )
    eight, single = PriceTable.load(path).rates
    assert (eight.device_name, eight.units_per_hour) == (H100, Fraction(12_290_000_000_000))
    assert eight.match == (("cloud", "aws"), ("labels.pool", "x"))
    assert (single.device_name, single.line) == ("Tesla T4", 3)
    path.write_text(path.read_text().replace("0.35", "x"))
    with pytest.raises(PriceTableError, match=r"prices.csv:3: per_hour 'x'"):
        PriceTable.load(path)
