"""Configuration: four layers, one schema, and mistakes named where they were made."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apportion.agent.config import AgentConfig
from apportion.agent.config_layers import LoadedConfig, flag, keys, load_config, variable
from apportion.agent.config_problems import config_problems, load_prices
from apportion.agent.config_secrets import mask_url
from apportion.agent.duration import Duration
from apportion.core.errors import ConfigError, PriceTableError

NOTHING: Mapping[str, str] = {}

PRICES = """\
- {device: A, per_hour: "1", currency: USD, covers: gpu, basis: list, source: t, as_of: 2026-05-01}
"""


def _load(
    path: Path | None = None,
    environment: Mapping[str, str] = NOTHING,
    flags: Mapping[str, str] = NOTHING,
    uid: int = 0,
) -> LoadedConfig:
    return load_config(path, environment, flags, uid=uid, host_name="node-a")


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "apportion.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def _refusal(path: Path | None = None, **layers: Mapping[str, str]) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        _load(path, **layers)  # type: ignore[arg-type]
    return caught.value


def test_each_layer_wins_over_the_one_before(tmp_path: Path) -> None:
    """Defaults < file < environment < flags, key by key, and the origin of each is known."""
    path = _file(tmp_path, "lateness: 3s\ntick_period: 6\nlabels:\n  max_models: 3\nmode: pod\n")
    loaded = _load(
        path,
        {"APPORTION_TICK_PERIOD": "7s", "APPORTION_LABELS__MAX_MODELS": "4"},
        {"labels.max_models": "5"},
    )
    config = loaded.config
    assert config.lateness == Duration(3_000_000_000)
    assert config.tick_period == Duration(7_000_000_000)
    assert config.labels.max_models == 5
    assert config.labels.max_tenants == 200
    assert config.mode == "pod"
    assert loaded.origins["lateness"] == f"{path}:1"
    assert loaded.origins["labels.max_models"] == "--labels-max-models"
    assert loaded.origins["tick_period"] == "APPORTION_TICK_PERIOD"
    assert loaded.origins["listen"] == "default"


def test_the_environment_may_name_the_file(tmp_path: Path) -> None:
    """APPORTION_CONFIG is where the file is, not a key of it."""
    path = _file(tmp_path, "cluster: east\n")
    loaded = _load(None, {"APPORTION_CONFIG": str(path)})
    assert loaded.config.cluster == "east"
    assert loaded.warnings == ()


def test_an_empty_file_or_value_leaves_the_default(tmp_path: Path) -> None:
    """A key without a value, as in a commented template, counts as unset."""
    assert _load(_file(tmp_path, "")).config == _load().config
    assert _load(_file(tmp_path, "prices:\nlabels:\n")).config == _load().config
    assert _load(None, {"APPORTION_PRICES": ""}).config.prices == "built-in"


def test_defaults_suit_a_plain_user() -> None:
    """A user who may not write /run or /var gets directories of their own."""
    environment = {"HOME": "/home/ann", "XDG_RUNTIME_DIR": "/run/user/7"}
    config = _load(None, environment, uid=7).config
    assert config.ring_dir == Path("/run/user/7/apportion/rings")
    assert config.lock_dir == Path("/run/user/7/apportion/locks")
    assert config.state_dir == Path("/home/ann/.local/state/apportion")
    assert config.ledger_location == "/home/ann/.local/state/apportion/ledger.db"
    assert _load().config.ring_dir == Path("/run/apportion/rings")
    assert _load().config.node == "node-a"


def test_lists_are_written_with_commas_outside_the_file(tmp_path: Path) -> None:
    """`own` and `ring_uids` mean the same in all layers."""
    in_file = _load(_file(tmp_path, "own: [GPU-1, GPU-2]\nring_uids: [1000, 0]\n")).config
    elsewhere = _load(None, {"APPORTION_OWN": "GPU-1, GPU-2"}, {"ring_uids": "1000,0"}).config
    assert in_file.own == elsewhere.own == ("GPU-1", "GPU-2")
    assert in_file.ring_uids == elsewhere.ring_uids == (1000, 0)


def test_the_address_is_taken_apart() -> None:
    """Host and port, an IPv6 host in brackets, and port 0 for a free one."""
    config = _load(None, NOTHING, {"listen": "[::1]:0"}).config
    assert (config.listen_host, config.listen_port) == ("::1", 0)
    config = _load().config
    assert (config.listen_host, config.listen_port) == ("127.0.0.1", 9477)


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("mode: node\nlateness: 2\ntick_perod: 5s\n", 3, "did you mean 'tick_period'?"),
        ("labels:\n  max_model: 5\n", 2, "did you mean 'labels.max_models'?"),
        ("zzz: 1\n", 1, "docs/configuration.md"),
        ("mode: cluster\n", 1, "'node' or 'pod'"),
        ("\nlisten: 9477\n", 2, "listen: give text"),
        ("engine_urls: {a: b}\n", 1, "engine_urls: give a list, such as [one, two]"),
        ("own: 3\n", 1, "own: give a list"),
        ("models: [a]\n", 1, "models: give a mapping, such as {name: value}"),
        ("state_dir: [a]\n", 1, "state_dir: give a path"),
        ("listen: localhost\n", 1, "127.0.0.1:9477"),
        ("listen: localhost:70000\n", 1, "127.0.0.1:9477"),
        ("tick_period: 5 parsecs\n", 1, "500ms"),
        ("tick_period: -5s\n", 1, "500ms"),
        ("tick_period: true\n", 1, "500ms"),
        ("mode: pod\nsample_period: 1h\n", 2, "from 50ms to 1m"),
        ("labels:\n  max_models: 0\n", 2, "greater than or equal to 1"),
        ("labels: 5\n", 1, "mapping"),
        ("currency: dollars\n", 1, "pattern"),
        ("ring_uids: [-1]\n", 1, "greater than or equal to 0"),
        ("node: two words\n", 1, "pattern"),
        ("- a list\n", 1, "mapping"),
        ("mode: node\nmode: pod\n", 2, "twice"),
        ("mode: [\n", 2, "not YAML"),
    ],
)
def test_a_wrong_file_is_refused_by_line(tmp_path: Path, text: str, line: int, part: str) -> None:
    """Each mistake names the file, the line and what is wrong."""
    path = _file(tmp_path, text)
    error = _refusal(path)
    assert part in str(error)
    assert str(error).startswith(f"{path}:{line}: ")


def test_a_wrong_variable_or_flag_is_named() -> None:
    """The message leads to the layer in which the mistake was made."""
    assert "APPORTION_LATENESS: lateness:" in str(
        _refusal(environment={"APPORTION_LATENESS": "soon"})
    )
    assert "--drain: drain is 1ms" in str(_refusal(flags={"drain": "1ms"}))


def test_a_misspelt_variable_is_a_warning() -> None:
    """It may belong to somebody else: Kubernetes and the client have variables of that prefix."""
    loaded = _load(
        None,
        {
            "APPORTION_LISTN": "1",
            "APPORTION_WORKLOAD": "x",
            "APPORTION_PORT_9477_TCP_ADDR": "10.0.0.1",
            "APPORTION_AGENT_SERVICE_HOST": "10.0.0.1",
            "APPORTION_SIMULATOR_STATE": "/x",
        },
    )
    assert len(loaded.warnings) == 1
    assert "did you mean 'APPORTION_LISTEN'?" in loaded.warnings[0]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://ann:secret@db/ledger",
        "postgresql://db/ledger?user=ann&password=secret",
        "postgresql://db/ledger?sslkey=secret",
        "postgresql://ann:secret@db:notaport/ledger",
    ],
)
def test_a_password_is_never_shown(url: str) -> None:
    """Neither the effective configuration nor the object's own text holds it."""
    config = _load(None, {"APPORTION_LEDGER": url}).config
    assert config.ledger_location == url
    assert "secret" not in str(config.effective())
    assert "secret" not in repr(config)
    assert "secret" not in mask_url(url)


@pytest.mark.parametrize(
    "url", ["sqlite:///shared.db", "/var/lib/shared.db", "://", "mysql://ann:secret@db/x", "x"]
)
def test_a_shared_ledger_is_a_postgresql(url: str) -> None:
    """Anything else is refused before an agent starts, without showing what was given."""
    with pytest.raises(ConfigError, match="shared_ledger: give the URL of a PostgreSQL") as caught:
        _load(None, {"APPORTION_SHARED_LEDGER": url})
    assert "secret" not in str(caught.value)


def test_a_password_of_the_shared_ledger_is_never_shown() -> None:
    """It is passed on as it is, with whatever its query says, and shown nowhere."""
    url = "postgresql://ann:secret@db/x?sslmode=verify-full&host=a&host=b&sslpassword=secret"
    config = _load(None, {"APPORTION_SHARED_LEDGER": url}).config
    assert config.shared_ledger == url
    assert "secret" not in f"{config.effective()}{config!r}"
    assert "sslmode=verify-full" in str(config.effective()["shared_ledger"])
    assert _load().config.effective()["shared_ledger"] is None
    assert _load(None, {"APPORTION_SHARED_LEDGER": ""}).config.shared_ledger is None


def test_a_password_in_a_url_of_metrics_is_never_shown() -> None:
    """Neither in the effective configuration nor in its representation."""
    url = "http://user:p@ss/hunter2@node:9400/metrics?token=hunter2"
    config = _load(flags={"dcgm_urls": url, "engine_urls": f"node:8000,{url}"}).config
    assert config.dcgm_urls == (url,)
    effective = config.effective()
    assert effective["engine_urls"] == ["node:8000", "http://***@node:9400/metrics?***"]
    assert "hunter2" not in f"{effective}{config!r}"
    wrong = _load(flags={"dcgm_urls": url.replace("http", "ftp")})
    (problem,) = config_problems(wrong)
    assert problem.startswith("--dcgm-urls: dcgm_urls: ")
    assert "hunter2" not in problem


def test_a_wrong_key_beside_a_password_does_not_show_it(tmp_path: Path) -> None:
    """pydantic would print the whole input; our message has only the key that is wrong."""
    path = _file(tmp_path, "ledger: postgresql://ann:secret@db/x\nmode: x\n")
    assert "secret" not in str(_refusal(path))


def test_the_effective_configuration_has_every_key() -> None:
    """What check-config prints is complete."""
    loaded = _load()
    assert set(loaded.config.effective()) == set(keys()) == set(loaded.origins)


@given(st.integers(0, 10**15))
def test_a_duration_survives_being_printed(duration_ns: int) -> None:
    """What is printed can be read back as the same length."""
    assert Duration.parse(str(Duration(duration_ns))) == Duration(duration_ns)


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("500ms", 5 * 10**8),
        (2, 2 * 10**9),
        (0.25, 25 * 10**7),
        ("1.5 s", 15 * 10**8),
        ("1h", 36 * 10**11),
        ("90d", 7_776 * 10**12),
    ],
)
def test_durations_are_read_exactly(text: object, ns: int) -> None:
    """A unit, or a number of seconds, in whole nanoseconds."""
    assert Duration.parse(text) == Duration(ns)


def test_how_long_is_kept() -> None:
    """Nothing is deleted unless it is asked for; sums stay at least as long as their lines."""
    config = _load().config
    assert (config.keep_lines, config.keep_rollups) == (None, None)
    config = _load(None, {"APPORTION_KEEP_LINES": "90d"}, {"keep_rollups": "1825d"}).config
    assert config.keep_lines == Duration(90 * 86_400 * 10**9)
    assert config.effective()["keep_rollups"] == "1825d"
    for keep, message in (
        ({"keep_lines": "23h"}, "keep_lines is 23h; it must be 1d or more"),
        ({"keep_rollups": "90d"}, "keep_lines is unset"),
        ({"keep_lines": "90d", "keep_rollups": "30d"}, "at least as long as their lines"),
    ):
        with pytest.raises(ConfigError, match=message):
            _load(None, NOTHING, keep)


def test_less_than_a_nanosecond_is_refused() -> None:
    """A duration that cannot be kept exactly is not rounded."""
    with pytest.raises(ValueError, match="whole number of nanoseconds"):
        Duration.parse("1.5ns")


def test_problems_are_found_before_the_daemon_starts(tmp_path: Path) -> None:
    """A price table that is missing or in another currency is a problem with a remedy."""
    assert config_problems(_load()) == []
    missing = _load(None, NOTHING, {"prices": str(tmp_path / "absent.yaml")})
    assert "cannot be read" in config_problems(missing)[0]
    prices = tmp_path / "prices.yaml"
    prices.write_text(PRICES, encoding="utf-8")
    flags = {"prices": str(prices), "currency": "EUR"}
    with pytest.raises(PriceTableError, match="USD but `currency` is EUR"):
        load_prices(_load(None, NOTHING, flags).config)
    flags["currency"] = "USD"
    assert load_prices(_load(None, NOTHING, flags).config).currency == "USD"


def test_without_a_table_the_built_in_estimates_hold(tmp_path: Path) -> None:
    """A newcomer sees money; `none` switches it off, and a file of that name is still a file."""
    assert {rate.basis for rate in load_prices(_load().config).rates} == {"list-estimate"}
    off = {"prices": "none"}
    for config in (
        _load(None, {"APPORTION_PRICES": "none"}).config,
        _load(None, NOTHING, off).config,
    ):
        assert (load_prices(config).rates, config.effective()["prices"]) == ((), "none")
    assert load_prices(_load(_file(tmp_path, "prices: none\n")).config).rates == ()
    euros = _load(None, NOTHING, {"currency": "EUR"})
    assert "built-in: the table is in USD but `currency` is EUR" in config_problems(euros)[0]
    assert config_problems(_load(None, NOTHING, {"currency": "EUR", "prices": "none"})) == []
    named = _load(None, NOTHING, {"prices": "./none"})
    assert "cannot be read" in config_problems(named)[0]
    late = _load(None, NOTHING, {"lateness": "100ms"})
    assert "two sample periods" in config_problems(late)[0]


def test_a_collector_that_there_is_not_is_refused_where_it_was_named(tmp_path: Path) -> None:
    """With the ones that there are: a source of devices is none of them."""
    path = _file(tmp_path, "mode: node\ncollectors: [default, infiniband]\n")
    assert str(_refusal(path)).startswith(
        f"{path}:2: collectors: there is no 'infiniband' to run; known are default, engines, kmsg, "
    )
    assert str(_refusal(flags={"collectors": "nvml"})).startswith("--collectors: collectors: ")
    assert _load(flags={"collectors": "system,network"}).config.collectors == ("system", "network")


def test_a_model_that_nobody_knows_is_a_problem_where_it_was_named(tmp_path: Path) -> None:
    """By a name that is none, or a file that is not there; the known names are told."""
    path = _file(tmp_path, "lateness: 2s\nmodels:\n  mine: llama-77b\n")
    (problem,) = config_problems(_load(path))
    assert problem.startswith(f"{path}:2: models: 'mine': model 'llama-77b' is not known (")
    absent = tmp_path / "config.json"
    (problem,) = config_problems(_load(flags={"models": f"mine={absent}"}))
    assert problem.startswith(f"--models: models: 'mine': {absent}")
    known = {"models": "mine=llama-3.1-8b"}
    assert config_problems(_load(flags=known)) == []


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("pods_dir", "pods", f"pods depends on where the agent is started: give {Path.cwd()}/pods"),
        ("sglang_logs", "chat", "'chat': say SERVICE=DIR"),
        ("sglang_forward_passes", "chat=/run/fpm", "'chat=/run/fpm': say SERVICE=ipc:///PATH"),
        (
            "sglang_forward_passes",
            "chat=ipc:///run/fpm",
            "'chat' has no log in sglang_logs: nothing says its requests",
        ),
        ("id_key_file", "/missing/key", "/missing/key: No such file or directory"),
    ],
)
def test_what_cannot_work_is_a_problem_where_it_was_named(key: str, value: str, said: str) -> None:
    """A path that means another place in each unit file, a log without a server, a lost key."""
    (problem,) = config_problems(_load(flags={key: value}))
    assert problem == f"{flag(key)}: {key}: {said}"


def test_ids_are_not_hashed_without_a_key() -> None:
    """Half of the setting is refused, and so is a kind of ids that there is not."""
    (problem,) = config_problems(_load(flags={"hashed_ids": "tenant"}))
    assert "needs a key" in problem
    assert "hashed_ids" in str(_refusal(flags={"hashed_ids": "tenants"}))


def test_every_key_is_documented(repository: Path) -> None:
    """docs/configuration.md names each key with its variable, and no key that is not there."""
    page = (repository / "docs" / "configuration.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `([a-z_.]+)` \| `APPORTION_", page, re.MULTILINE))
    assert documented == set(keys())
    for key in keys():
        assert f"`{variable(key)}`" in page
    assert flag("labels.max_models") == "--labels-max-models"
    assert all(field.description for field in AgentConfig.model_fields.values())
