"""The application: OpenAI's /v1/completions and /v1/models, and /health. Whatever comes in, it answers and lives."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.exceptions import HTTPException

from configs.errors import UserError
from gpt2core.generation.completion import Completion
from tasks.serving.completion_request import CompletionRequest, RefusedRequestError, read_request
from tasks.serving.served_model import LoadedModel, ServedModel
from tasks.terminal.console import warn

MOST_BYTES = 1 << 20
"""Bytes of a request."""
WAITING = 32
"""Requests that may wait while another one is answered."""
ENDINGS = {"length": "length", "end_of_text": "stop", "stop": "stop"}
BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": CompletionRequest.model_json_schema()}}}}


class Turnstile:
    """One request computes at a time, since it uses all cores; so many others wait."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._here = 0

    def require_place(self) -> None:
        """Raise RefusedRequestError where too many wait already."""
        if self._here > WAITING:
            raise RefusedRequestError("Too many requests wait already: try again in a moment.", status=503)

    @asynccontextmanager
    async def passed(self) -> AsyncIterator[None]:
        """Inside, nobody else computes; raises RefusedRequestError at once where too many wait already."""
        self.require_place()
        self._here += 1
        try:
            async with self._lock:
                yield
        finally:
            self._here -= 1


def make_application(served: ServedModel, key: str = "") -> FastAPI:
    """The application; where there is a `key`, whoever asks must bear it."""
    application, turnstile = FastAPI(title="gpt2flow", docs_url=None, redoc_url=None), Turnstile()
    _name_errors(application)

    @application.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @application.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        _require_key(request, key)
        loaded = await run_in_threadpool(served.current)
        return {"object": "list", "data": [{"id": loaded.name, "object": "model", "owned_by": "gpt2flow"}]}

    @application.post("/v1/completions", openapi_extra=BODY)
    async def completions(request: Request) -> Response:
        _require_key(request, key)
        asked = read_request(await _json_of(request))
        if asked.stream:
            turnstile.require_place()  # while the answer can still be 503
            loaded = await _model_for(asked, served)
            return StreamingResponse(_events(turnstile, loaded, asked), media_type="text/event-stream")
        async with turnstile.passed():
            loaded = await _model_for(asked, served)
            return JSONResponse(await run_in_threadpool(_answer, loaded, asked))

    return application


def _name_errors(application: FastAPI) -> None:
    """Every error is one sentence in OpenAI's form; what nobody foresaw says nothing of the machine."""

    @application.exception_handler(RefusedRequestError)
    async def refused(_: Request, error: RefusedRequestError) -> JSONResponse:
        headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else None
        return JSONResponse(error.as_json(), error.status, headers)

    @application.exception_handler(UserError)
    async def cannot_be(_: Request, error: UserError) -> JSONResponse:
        return JSONResponse(RefusedRequestError(str(error)).as_json(), 400)

    @application.exception_handler(HTTPException)
    async def of_http(request: Request, error: HTTPException) -> JSONResponse:
        sentence = f"{error.detail}: {request.method} {request.url.path} is nothing that is served; see /openapi.json."
        return JSONResponse(RefusedRequestError(sentence).as_json(), error.status_code, error.headers)

    @application.exception_handler(Exception)
    async def unforeseen(_: Request, error: Exception) -> JSONResponse:
        warn("request", f"could not be answered ({type(error).__name__}: {error})")
        return JSONResponse(RefusedRequestError("The request could not be answered.", 500).as_json(), 500)


def _require_key(request: Request, key: str) -> None:
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    if key and not secrets.compare_digest(given.encode(), key.encode()):
        raise RefusedRequestError("The key is missing or wrong: send the header Authorization: Bearer KEY.", status=401)


async def _json_of(request: Request) -> object:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            raise RefusedRequestError(f"The body has more than {MOST_BYTES:,} bytes.", status=413)
    try:
        return json.loads(bytes(body).decode())
    except (ValueError, RecursionError) as error:
        raise RefusedRequestError(f"The body is not JSON in UTF-8 ({str(error)[:80] or type(error).__name__}).") from None


async def _model_for(asked: CompletionRequest, served: ServedModel) -> LoadedModel:
    loaded = await run_in_threadpool(served.current)
    if asked.model not in (None, loaded.name, served.reference):
        sentence = f"The model {ascii(asked.model)[:80]} is not served here: leave model out, or give {loaded.name}."
        raise RefusedRequestError(sentence, status=404, parameter="model")
    return loaded


def _require_fit(loaded: LoadedModel, asked: CompletionRequest) -> list[int]:
    """Tokens of each prompt; a prompt that the model would see only the end of is refused."""
    lengths, n_ctx = [loaded.count(prompt) for prompt in asked.prompt], loaded.model.config.n_ctx
    if max(lengths) > n_ctx:
        sentence = f"A prompt has {max(lengths):,} tokens and the model's context {n_ctx:,}: shorten it."
        raise RefusedRequestError(sentence, parameter="prompt")
    return lengths


def _answer(loaded: LoadedModel, asked: CompletionRequest) -> dict[str, Any]:
    lengths = _require_fit(loaded, asked)
    done = list(loaded.complete(asked.prompt, asked.settings(_any_seed())))
    written = sum(len(each.tokens) for each in done)
    usage = {"prompt_tokens": sum(lengths), "completion_tokens": written, "total_tokens": sum(lengths) + written}
    choices = [_choice(loaded, asked, number, each) for number, each in enumerate(done)]
    return {**_head(loaded), "choices": choices, "usage": usage}


def _choice(loaded: LoadedModel, asked: CompletionRequest, number: int, done: Completion) -> dict[str, Any]:
    probabilities = None
    if asked.logprobs is not None:
        tokens = [loaded.tokenizer.decode([token]) for token in done.tokens]
        probabilities = {"tokens": tokens, "token_logprobs": done.log_probabilities}
    text = (done.prompt if asked.echo else "") + done.text
    return {"text": text, "index": number, "logprobs": probabilities, "finish_reason": ENDINGS[done.ending]}


async def _events(turnstile: Turnstile, loaded: LoadedModel, asked: CompletionRequest) -> AsyncIterator[str]:
    """Server-sent events: a piece of text each, then [DONE]; an error that comes late is an event, too."""
    head = _head(loaded)
    try:
        async with turnstile.passed():
            async for piece in iterate_in_threadpool(_pieces(loaded, asked)):
                if piece:
                    choice = {"text": piece, "index": 0, "logprobs": None, "finish_reason": None}
                    yield _event({**head, "choices": [choice]})
    except (UserError, RefusedRequestError) as error:
        yield _event(RefusedRequestError(str(error)).as_json())
    yield "data: [DONE]\n\n"


def _pieces(loaded: LoadedModel, asked: CompletionRequest) -> Iterator[str]:
    _require_fit(loaded, asked)
    if asked.echo:
        yield asked.prompt[0]
    yield from loaded.stream(asked.prompt[0], asked.settings(_any_seed()))


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"


def _head(loaded: LoadedModel) -> dict[str, Any]:
    identity = f"cmpl-{secrets.token_hex(12)}"
    return {"id": identity, "object": "text_completion", "created": int(time.time()), "model": loaded.name}


def _any_seed() -> int:
    return secrets.randbits(63)
