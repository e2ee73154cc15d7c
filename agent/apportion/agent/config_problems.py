"""What is wrong with a configuration whose every key is valid: the files that it names."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from apportion.agent.config import AgentConfig
from apportion.agent.config_budgets import made_of
from apportion.agent.config_layers import LoadedConfig
from apportion.collectors.sglang import PASSES_SCHEME
from apportion.collectors.target import parse_targets
from apportion.core.errors import ConfigError, PriceTableError
from apportion.cost.methods.model_catalogue import model_facts
from apportion.cost.methods.model_facts import ModelFacts
from apportion.cost.prices.built_in import BUILT_IN, NO_TABLE, built_in_table
from apportion.cost.rate import PriceTable


def config_problems(loaded: LoadedConfig) -> list[str]:
    """Sentences, each with where it was written; empty where the daemon could start with it."""
    config = loaded.config
    problems: list[str] = []
    try:
        made_of(config.budgets, load_prices(config).currency)
    except (PriceTableError, ConfigError) as refusal:
        problems.append(str(refusal))
    problems += _problem_of(
        "dcgm_urls", lambda: parse_targets(config.dcgm_urls, os.environ), loaded
    )
    problems += _problem_of(
        "engine_urls", lambda: parse_targets(config.engine_urls, os.environ), loaded
    )
    if config.otlp_http is not None and config.otlp_http == config.otlp_grpc:
        problems.append(
            f"{loaded.origins['otlp_grpc']}: otlp_grpc: it is the address of otlp_http; choose "
            "another port"
        )
    problems += _problem_of(
        "service_devices", lambda: _check_services(config.service_devices), loaded
    )
    problems += _problem_of("sglang_logs", lambda: _check_logs(config.sglang_logs), loaded)
    problems += _problem_of("sglang_forward_passes", lambda: _check_passes(config), loaded)
    problems += _problem_of("id_key_file", lambda: _check_key(config), loaded)
    problems += _problem_of("pods_dir", lambda: _check_absolute(config.pods_dir), loaded)
    problems += _problem_of("models", lambda: load_models(config), loaded)
    if config.lateness < config.sample_period:
        problems.append(
            f"lateness ({config.lateness}) is shorter than sample_period "
            f"({config.sample_period}): the latest time would be settled without a reading; "
            "make lateness at least two sample periods"
        )
    return problems


def _check_services(texts: Sequence[str]) -> None:
    for text in texts:
        service, _, devices = text.partition("=")
        if not service or not all(devices.split("+")):
            raise ConfigError(f"{text!r}: say SERVICE=ID, or SERVICE=ID+ID")


def _check_logs(texts: Sequence[str]) -> None:
    for text in texts:
        service, _, path = text.partition("=")
        if not service or not path:
            raise ConfigError(f"{text!r}: say SERVICE=DIR")


def _check_passes(config: AgentConfig) -> None:
    services = [text.partition("=")[0] for text in config.sglang_forward_passes]
    known = {text.partition("=")[0] for text in config.sglang_logs}
    for service, text in zip(services, config.sglang_forward_passes, strict=True):
        if not service or not text.removeprefix(f"{service}=").startswith(PASSES_SCHEME):
            raise ConfigError(f"{text!r}: say SERVICE={PASSES_SCHEME}/PATH")
        if service not in known:
            raise ConfigError(f"{service!r} has no log in sglang_logs: nothing says its requests")
        if services.count(service) > 1:
            raise ConfigError(f"{service!r} is there twice: give each server a name of its own")


def _check_key(config: AgentConfig) -> None:
    path = config.id_key_file
    if path is None and config.hashed_ids:
        raise ConfigError("`hashed_ids` needs a key: name its file")
    try:
        if path is not None:
            path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error


def _check_absolute(path: Path | None) -> None:
    if path is not None and not path.is_absolute():
        raise ConfigError(f"{path} depends on where the agent is started: give {path.absolute()}")


def _problem_of(key: str, use: Callable[[], object], loaded: LoadedConfig) -> list[str]:
    try:
        use()
    except ConfigError as refusal:
        return [f"{loaded.origins[key]}: {key}: {refusal}"]
    return []


def load_models(config: AgentConfig) -> dict[str, ModelFacts]:
    """The facts about models that the configuration points at, by the name in requests.

    Raises:
        ConfigError: one of them is no known model and no `config.json`.
    """
    return {name: _model(name, where) for name, where in config.models.items()}


def _model(name: str, where: str) -> ModelFacts:
    try:
        return model_facts(where)
    except ConfigError as refusal:
        raise ConfigError(f"{name!r}: {refusal}") from refusal


def load_prices(config: AgentConfig) -> PriceTable:
    """The rows for this node of the price table that the configuration names.

    Raises:
        PriceTableError: as `load_price_table`.
    """
    return load_price_table(config).at(config.placement)


def load_price_table(config: AgentConfig) -> PriceTable:
    """The whole price table that the configuration names; one without rates for `none`.

    Raises:
        PriceTableError: it cannot be used, or its currency is not the configured one.
    """
    if config.prices == NO_TABLE:
        return PriceTable()
    built_in = config.prices == BUILT_IN
    table = built_in_table() if built_in else PriceTable.load(Path(config.prices))
    if config.currency not in {None, table.currency}:
        raise PriceTableError(
            f"the table is in {table.currency} but `currency` is {config.currency}; a ledger has "
            "one currency: change one of them, or say `prices: none`",
            path=config.prices,
        )
    return table
