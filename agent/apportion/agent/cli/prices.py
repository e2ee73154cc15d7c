"""`apportion prices`: where prices come from, and what a device costs by which row."""

from __future__ import annotations

from apportion.agent.cli.actions import Action, command_of
from apportion.agent.cli.prices_apply import configure_apply, run_apply
from apportion.agent.cli.prices_check import configure_check, run_check
from apportion.agent.cli.prices_import import configure_import, run_import
from apportion.agent.cli.prices_owned import configure_owned, run_owned
from apportion.agent.cli.prices_show import (
    configure_diff,
    configure_list,
    configure_quote,
    run_diff,
    run_list,
    run_quote,
)

COMMAND = command_of(
    "Reads, writes, compares and applies price tables.",
    {
        "quote": Action("what a device costs, and by which row", configure_quote, run_quote),
        "list": Action("the rows of a table", configure_list, run_list),
        "check": Action("what is doubtful about a table", configure_check, run_check),
        "diff": Action("what two tables say differently", configure_diff, run_diff),
        "import": Action("write a table from a price list", configure_import, run_import),
        "apply": Action(
            "price what was unpriced, and settled time anew", configure_apply, run_apply
        ),
        "owned": Action("what hardware of one's own costs", configure_owned, run_owned),
    },
)
