"""The options of commands that read the configuration: `--config`, and a flag for each key."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Final

from apportion.agent.config import DEFAULT_FILE, AgentConfig
from apportion.agent.config_labels import LabelLimits
from apportion.agent.config_layers import FILE_VARIABLE, LoadedConfig, flag, keys, load_config

_FLAG_PREFIX: Final = "key:"
"""Keeps the flags of keys apart from a command's own options in the namespace."""


def add_config_file(parser: argparse.ArgumentParser) -> None:
    """Add `--config FILE` alone, for a command that needs a key or two of it."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"the configuration (default: ${FILE_VARIABLE}, else {DEFAULT_FILE} if it is there)",
    )


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add `--config FILE` and the flags; a list is written with commas."""
    add_config_file(parser)
    group = parser.add_argument_group("keys of the configuration")
    for key in keys():
        outer, _, inner = key.partition(".")
        fields = LabelLimits.model_fields if inner else AgentConfig.model_fields
        description = fields[inner or outer].description or ""
        group.add_argument(
            flag(key),
            dest=f"{_FLAG_PREFIX}{key}",
            metavar="VALUE",
            help=description.replace("%", "%%"),
        )


def config_of(options: argparse.Namespace) -> LoadedConfig:
    """The configuration by the options, this process's environment, user and host.

    Raises:
        ConfigError: as `load_config`.
    """
    flags = {
        name.removeprefix(_FLAG_PREFIX): text
        for name, text in vars(options).items()
        if name.startswith(_FLAG_PREFIX) and text is not None
    }
    return load_config(
        options.config, os.environ, flags, uid=os.geteuid(), host_name=os.uname().nodename
    )
