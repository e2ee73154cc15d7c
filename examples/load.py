"""Put two tenants' load on a completions server, and add up what its answers said they used.

    python examples/load.py --url http://127.0.0.1:8000 --seconds 20 --output summary.json

Tenant `search` asks with long prompts that begin alike and wants few tokens, some of them as
JSON; `chat` asks briefly and wants many. Some workers ask again as soon as they are answered, and
more requests come at random moments (a Poisson process) however long the answers take. What is
asked depends on the seed alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from corpus import sentence

MODEL: Final = "gpt-small"
TENANTS: Final = ("search", "chat")
INSTRUCTION: Final = "Answer from these lines and from nothing else, as briefly as can be done: "
"""What every prompt of `search` begins with: a server that keeps prefixes computes it once."""
JSON_RATIO: Final = 0.3
"""Of what `search` asks."""
MAX_OUTSTANDING: Final = 48
"""Requests in flight; an arrival beyond it is counted as skipped, so that memory is bounded."""
DRAIN_SECONDS: Final = 15.0


@dataclass(frozen=True)
class Plan:
    """One request before it is sent."""

    number: int
    tenant: str
    prompt: str
    max_tokens: int
    seed: int
    cut_after: int | None
    """Tokens after which the client hangs up; None where it stays to the end."""
    as_json: bool


def plan(seed: int, number: int, cancel_ratio: float) -> Plan:
    """Request `number` of the load with this seed."""
    source = random.Random(f"{seed}/{number}")
    tenant = source.choice(TENANTS)
    if tenant == "search":
        prompt = INSTRUCTION + " ".join(sentence(source) for _ in range(source.randint(1, 2)))
        prompt, max_tokens = prompt[:230], source.randint(4, 16)
    else:
        prompt, max_tokens = sentence(source)[: source.randint(12, 60)], source.randint(24, 160)
    cut = tenant == "chat" and source.random() < cancel_ratio
    answer_seed = source.getrandbits(32)
    as_json = tenant == "search" and source.random() < JSON_RATIO
    return Plan(number, tenant, prompt, max_tokens, answer_seed, 8 if cut else None, as_json)


@dataclass
class Tally:
    """What one tenant got: requests by status, and the tokens that complete answers reported."""

    requests: Counter[str] = field(default_factory=Counter[str])
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    def add_usage(self, usage: dict[str, Any]) -> None:
        """Add the usage of one complete answer."""
        self.prompt_tokens += usage["prompt_tokens"]
        self.cached_tokens += usage["prompt_tokens_details"]["cached_tokens"]
        self.completion_tokens += usage["completion_tokens"]

    def summary(self) -> dict[str, object]:
        """For the JSON file."""
        return {
            "requests": dict(sorted(self.requests.items())),
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "completion_tokens": self.completion_tokens,
        }


class Load:
    """The load while it runs."""

    def __init__(self, http: httpx.AsyncClient, options: argparse.Namespace) -> None:
        self._http = http
        self._options = options
        self._sent = 0
        self._outstanding = 0
        self._end = asyncio.get_running_loop().time() + options.seconds
        self.tallies = {tenant: Tally() for tenant in TENANTS}

    def stop(self) -> None:
        """Send no more."""
        self._end = 0.0

    async def run(self) -> None:
        """Send until the time or the count is used up, then wait for the last answers."""
        workers = [self._work() for _ in range(self._options.concurrency)]
        await asyncio.gather(self._arrive(), *workers)

    async def _work(self) -> None:
        """One that asks again as soon as it is answered."""
        while (request := self._next()) is not None:
            await self._send(request)

    async def _arrive(self) -> None:
        """Those that come when they come."""
        source = random.Random(f"{self._options.seed}/arrivals")
        sending: set[asyncio.Task[None]] = set()
        while self._options.rate > 0:
            await asyncio.sleep(source.expovariate(self._options.rate))
            request = self._next()
            if request is None:
                break
            task = asyncio.create_task(self._send(request))
            sending.add(task)
            task.add_done_callback(sending.discard)
        await asyncio.gather(*sending)

    def _next(self) -> Plan | None:
        over = asyncio.get_running_loop().time() >= self._end
        if over or self._sent >= self._options.requests:
            return None
        self._sent += 1
        return plan(self._options.seed, self._sent, self._options.cancel_ratio)

    async def _send(self, request: Plan) -> None:
        tally = self.tallies[request.tenant]
        if self._outstanding >= MAX_OUTSTANDING:
            tally.requests["skipped"] += 1
            return
        self._outstanding += 1
        try:
            tally.requests[await self._stream(request, tally)] += 1
        except httpx.HTTPError:
            tally.requests["error"] += 1
        finally:
            self._outstanding -= 1

    async def _stream(self, request: Plan, tally: Tally) -> str:
        """Send one request and read its stream; returns how it ended."""
        body = {
            "model": MODEL,
            "prompt": request.prompt,
            "max_tokens": request.max_tokens,
            "seed": request.seed,
            "stream": True,
            "stream_options": {"include_usage": True},
            "response_format": {"type": "json_object" if request.as_json else "text"},
        }
        headers = {
            "X-Tenant": request.tenant,
            "X-Request-Id": f"load-{self._options.seed}-{request.number}",
        }
        post = self._http.stream("POST", "/v1/completions", json=body, headers=headers)
        async with post as response:
            if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
                return "rejected"
            if response.status_code != httpx.codes.OK:
                return "error"
            received = 0
            async for line in response.aiter_lines():
                if line == "data: [DONE]":
                    return "ok"
                if not line.startswith("data: "):
                    continue
                event = json.loads(line.removeprefix("data: "))
                if event.get("usage"):
                    tally.add_usage(event["usage"])
                received += len(event["choices"])
                if request.cut_after is not None and received >= request.cut_after:
                    return "cancelled"
        return "error"


async def put(options: argparse.Namespace) -> dict[str, object]:
    """Put the load on the server, until SIGTERM at the latest; the summary by tenant."""
    limits = httpx.Limits(max_connections=MAX_OUTSTANDING)
    async with httpx.AsyncClient(
        base_url=options.url, limits=limits, timeout=30.0, trust_env=False
    ) as http:
        load = Load(http, options)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, load.stop)
        finished = True
        try:
            await asyncio.wait_for(load.run(), options.seconds + DRAIN_SECONDS)
        except asyncio.TimeoutError:
            finished = False
    return {
        "seed": options.seed,
        "finished": finished,
        "tenants": {tenant: tally.summary() for tenant, tally in load.tallies.items()},
    }


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--url", required=True, help="of the server, without /v1")
    parser.add_argument("--seconds", type=float, default=20.0, help="send no longer")
    parser.add_argument("--requests", type=int, default=100_000, help="send no more")
    parser.add_argument("--concurrency", type=int, default=3, help="workers that ask again at once")
    parser.add_argument("--rate", type=float, default=2.0, help="random arrivals a second")
    parser.add_argument("--cancel-ratio", type=float, default=0.05, help="chats that hang up early")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, help="for the summary (default: standard output)")
    return parser.parse_args()


def main() -> None:
    """Run the program."""
    options = arguments()
    summary = json.dumps(asyncio.run(put(options)), indent=2)
    if options.output is None:
        print(summary)
    else:
        options.output.write_text(summary + "\n")


if __name__ == "__main__":
    main()
