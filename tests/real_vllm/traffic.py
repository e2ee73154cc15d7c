"""Streaming requests of three tenants to a vLLM, and what its answers said."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any, Final, NamedTuple

import httpx
from tests.real_vllm.model import words

TENANTS: Final = ("search", "chat", "batch")
AT_ONCE: Final = 16
SHARED_WORDS: Final = 60
"""At the beginning of each tenant's prompts, so that some of it is in the prefix cache."""
PATIENCE_S: Final = 600.0


class Answer(NamedTuple):
    """What a caller was told."""

    request_id: str
    tenant: str
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int


def answers(url: str, count: int) -> list[Answer]:
    """Send so many requests, some at once, and wait for all; by `url`, with the port."""
    return asyncio.run(_answers(url, count))


async def _answers(url: str, count: int) -> list[Answer]:
    source = random.Random(11)
    turns = asyncio.Semaphore(AT_ONCE)
    prompts = [_prompt(number, source) for number in range(count)]
    lengths = [source.randint(4, 60) for _ in range(count)]
    # A connection for each, so that several API servers get some.
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S, limits=limits) as caller:

        async def one(number: int) -> Answer:
            async with turns:
                return await _asked(caller, number, prompts[number], lengths[number])

        return await asyncio.gather(*(one(number) for number in range(count)))


def _prompt(number: int, source: random.Random) -> str:
    known = words()
    first = number % len(TENANTS) * SHARED_WORDS
    shared = known[first : first + SHARED_WORDS]
    return " ".join([*shared, *source.choices(known, k=source.randint(5, 80))])


async def _asked(caller: httpx.AsyncClient, number: int, prompt: str, length: int) -> Answer:
    """Every other request is a chat; each one says what it used in its last event."""
    request_id, tenant = f"request-{number}", TENANTS[number % len(TENANTS)]
    body: dict[str, Any] = {
        "model": "tiny",
        "max_tokens": length,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if number % 2:
        path, body["messages"] = "chat/completions", [{"role": "user", "content": prompt}]
    else:
        path, body["prompt"] = "completions", prompt
    headers = {"X-Request-Id": request_id, "X-Tenant": tenant}
    usage: dict[str, Any] = {}
    async with caller.stream("POST", f"/v1/{path}", json=body, headers=headers) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                usage = json.loads(line[6:]).get("usage") or usage
    details: dict[str, int] = usage.get("prompt_tokens_details") or {}
    return Answer(
        request_id,
        tenant,
        usage["prompt_tokens"],
        details.get("cached_tokens") or 0,
        usage["completion_tokens"],
    )
