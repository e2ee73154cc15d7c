r"""Serve a small language model over HTTP, with each request's cost written down by apportion.

    python examples/serve_lm.py --port 8000
    curl -N localhost:8000/v1/completions -H 'X-Tenant: search' \
        --json '{"model": "gpt-small", "prompt": "The meter counts", "stream": true}'

The endpoints speak OpenAI's completions protocol. The weights are random: what it says is noise,
what it costs is real. The tenant is taken from a header because this is a demonstration on the
loopback interface; a real server takes it from who has proved to be whom.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import re
import signal
import socket
import sys
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Final, Literal

import torch
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, Field

from apportion import client
from engine import COMPLETE, Completion, Engine, Progress, QueueFullError
from gpt import Gpt, Shape, device_named
from guard import DecisionLog, Guard
from json_grammar import JsonGrammar

WORKLOAD: Final = "lm-server"
MODEL: Final = "gpt-small"
MAX_WAITING: Final = 64
NAME = re.compile(r"[A-Za-z0-9._:-]{1,64}")


class StreamOptions(BaseModel):
    """What a stream carries beside its text."""

    include_usage: bool = False


class ResponseFormat(BaseModel):
    """How the answer is written."""

    type: Literal["text", "json_object"] = "text"


class Question(BaseModel):
    """The body of a completion request; what it has beyond these fields is ignored."""

    model: str
    prompt: Annotated[str, Field(min_length=1, max_length=4096)]
    max_tokens: Annotated[int, Field(ge=1, le=1024)] = 16
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] = 1.0
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] | None = None
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    response_format: ResponseFormat = ResponseFormat()


class Answer:
    """One completion as its HTTP handler sees it: the engine's progress, brought to the loop."""

    def __init__(self, question: Question, request: Request, shape: Shape) -> None:
        self.id = named(request, "x-request-id") or f"cmpl-{uuid.uuid4().hex}"
        prompt = question.prompt.encode()
        if question.model != MODEL:
            raise HTTPException(404, f"no model {question.model!r} here, only {MODEL!r}")
        if len(prompt) + question.max_tokens > shape.context:
            raise HTTPException(
                400,
                f"the prompt's {len(prompt)} tokens and max_tokens {question.max_tokens} are more "
                f"than the context of {shape.context}: shorten one of them",
            )
        grammar = JsonGrammar() if question.response_format.type == "json_object" else None
        if grammar is not None and question.max_tokens < grammar.shortest_end:
            raise HTTPException(
                400, f"no JSON object has {question.max_tokens} tokens: ask for 2 or more"
            )
        tenant = named(request, "x-tenant")
        loop = asyncio.get_running_loop()
        self._request = request
        self._progress: asyncio.Queue[Progress] = asyncio.Queue()
        self.completion = Completion(
            prompt,
            max_tokens=question.max_tokens,
            temperature=question.temperature,
            seed=question.seed if question.seed is not None else uuid.uuid4().int >> 65,
            span=client.request(
                self.id,
                tenant=tenant,
                model=MODEL,
                traceparent=request.headers.get("traceparent"),
            ),
            on_progress=lambda progress: loop.call_soon_threadsafe(
                self._progress.put_nowait, progress
            ),
            request_id=self.id,
            tenant=tenant,
            grammar=grammar,
        )

    def begin(self, engine: Engine) -> None:
        """Give it to the engine, and watch whether the client stays.

        Raises:
            HTTPException: 429 where too many wait.
        """
        try:
            engine.submit(self.completion)
        except QueueFullError as error:
            raise HTTPException(429, f"{error}: try again later") from error
        self._watch = asyncio.create_task(self._cancel_when_gone())

    async def progress(self) -> AsyncIterator[Progress]:
        """What the engine brings, to the end."""
        try:
            while True:
                progress = await self._progress.get()
                yield progress
                if progress.finish_reason is not None:
                    return
        finally:
            self._watch.cancel()
            self.completion.cancel()  # changes nothing if it has ended

    async def whole(self) -> Response:
        """The answer as one JSON object."""
        text, finish_reason = "", None
        async for progress in self.progress():
            text += progress.text
            finish_reason = progress.finish_reason
        if finish_reason not in COMPLETE:
            return failure(500, f"the completion ended as {finish_reason!r}")
        return JSONResponse({**self._body(text, finish_reason), "usage": self._usage()})

    async def events(self, *, include_usage: bool) -> AsyncIterator[str]:
        """The answer as server-sent events: one a token, the usage if asked for, and the end."""
        async for progress in self.progress():
            body = self._body(progress.text, progress.finish_reason)
            yield f"data: {json.dumps(body)}\n\n"
        if include_usage:
            body = {**self._body("", None), "choices": [], "usage": self._usage()}
            yield f"data: {json.dumps(body)}\n\n"
        yield "data: [DONE]\n\n"

    def _body(self, text: str, finish_reason: str | None) -> dict[str, object]:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}
        return {"id": self.id, "object": "text_completion", "model": MODEL, "choices": [choice]}

    def _usage(self) -> dict[str, object]:
        completion = self.completion
        prompt_tokens, completion_tokens = len(completion.prompt), len(completion.output)
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "prompt_tokens_details": {"cached_tokens": completion.cached_tokens},
        }

    async def _cancel_when_gone(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        self.completion.cancel()


def named(request: Request, header: str) -> str | None:
    """A header's value if it is there; it becomes a name in the ledger, so it is a plain one."""
    value = request.headers.get(header)
    if value is not None and not NAME.fullmatch(value):
        raise HTTPException(400, f"header {header}: give 1 to 64 of the characters A-Za-z0-9._:-")
    return value


def failure(status: int, message: str) -> JSONResponse:
    """An error as OpenAI's clients expect it."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return JSONResponse({"error": {"message": message, "type": kind}}, status_code=status)


def application(engine: Engine, shape: Shape, ready: dict[str, object]) -> FastAPI:
    """The HTTP application. When the engine is warm it prints `ready` as a line of JSON."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        await asyncio.to_thread(engine.start)
        client.ready()
        print(json.dumps(ready), flush=True)
        yield
        await asyncio.to_thread(engine.stop)

    app = FastAPI(title="apportion's example server", lifespan=lifespan)

    @app.exception_handler(HTTPException)
    async def explain(_: Request, error: HTTPException) -> Response:
        return failure(error.status_code, error.detail)

    @app.exception_handler(RequestValidationError)
    async def refuse(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return failure(400, f"{place}: {first['msg']}")

    @app.post("/v1/completions")
    async def complete(question: Question, request: Request) -> Response:
        answer = Answer(question, request, shape)
        answer.begin(engine)
        if not question.stream:
            return await answer.whole()
        events = answer.events(include_usage=question.stream_options.include_usage)
        headers = {"X-Request-Id": answer.id}
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

    @app.get("/v1/models")
    async def models() -> dict[str, object]:
        return {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "me"}]}

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    return app


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one and prints it")
    parser.add_argument("--device", default="auto", help="cpu, cuda, or the best there is: auto")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--seed", type=int, default=1, help="of the weights")
    parser.add_argument("--max-batch", type=int, default=4, help="completions computed at once")
    parser.add_argument("--decisions", type=Path, help="a log of what the guards decided, no texts")
    parser.add_argument(
        "--block-above", type=float, default=1.0, help="the guards' score that stops a request"
    )
    return parser.parse_args()


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    options = arguments()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    # uvicorn raises the signal again when it has drained: the process then ends in order, and
    # what is registered with atexit runs.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    client.init(workload=WORKLOAD, tags={"team": "serving"})

    listener = socket.create_server(("127.0.0.1", options.port))
    torch.manual_seed(options.seed)
    shape = Shape()
    device = device_named(options.device)
    engine = Engine(
        Gpt(shape).to(device),
        max_batch=options.max_batch,
        max_waiting=MAX_WAITING,
        threads=options.threads,
        guard=Guard().to(device),
        decisions=DecisionLog(options.decisions, options.block_above),
    )
    port: int = listener.getsockname()[1]
    app = application(engine, shape, {"event": "ready", "port": port})
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3, lifespan="on")
    )
    server.run(sockets=[listener])


if __name__ == "__main__":
    main()
