"""Whether the ledger tells what the workloads themselves say that they did."""

from __future__ import annotations

from typing import Any, Final

SERVER: Final = "lm-server"
TRAINER: Final = "gpt-pretrain"
TOKENS: Final = {
    "prompt_tokens": "input_tokens",
    "cached_tokens": "cached_input_tokens",
    "completion_tokens": "output_tokens",
}
"""A name in the answers' usage, and the same thing's name in the report."""


def differences(report: dict[str, Any], load: dict[str, Any], trainer: dict[str, Any]) -> list[str]:
    """What does not agree, a sentence each.

    `report` is of `apportion report --by workload,tenant --format json`, `load` the summary of
    load.py and `trainer` the last line of train_gpt.py. A request that was cut short never told
    its caller its tokens, so where there are such, the ledger may have more.
    """
    rows = {(row["workload"], row["tenant"]): row for row in report["rows"]}
    found: list[str] = []
    for tenant, said in load["tenants"].items():
        row = rows.get((SERVER, tenant), {})
        requests = said["requests"]
        cut = requests.get("cancelled", 0)
        found += _compare(f"requests of {tenant}", requests.get("ok", 0) + cut, row.get("requests"))
        for theirs, ours in TOKENS.items():
            what = f"{ours} of {tenant}"
            found += _compare(what, said[theirs], row.get(ours), or_more=cut > 0)
        if requests.get("error"):
            found.append(f"{requests['error']} requests of {tenant} failed")
        if not requests.get("ok"):
            found.append(f"no request of {tenant} was answered")
    if not load["finished"]:
        found.append("the load did not get its last answers in time")
    row = rows.get((TRAINER, None), {})
    found += _compare("steps of the trainer", trainer["steps"], row.get("steps"))
    found += _compare("tokens of the trainer", trainer["tokens"], row.get("training_tokens"))
    return found


def _compare(what: str, said: int, booked: int | None, *, or_more: bool = False) -> list[str]:
    booked = booked or 0
    if said == booked or (or_more and booked > said):
        return []
    return [f"{what}: {said} were done, {booked} are in the ledger"]
