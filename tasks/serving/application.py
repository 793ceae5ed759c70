"""The application: OpenAI's /v1/completions and /v1/models, and /health. Whatever comes in, it answers and lives."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool

from configs.errors import UserError
from tasks.serving.completion_answer import head, pieces, require_fit, whole_answer
from tasks.serving.completion_request import CompletionRequest, read_request
from tasks.serving.refusal import RefusedRequestError, name_errors
from tasks.serving.request_body import read_json
from tasks.serving.served_model import LoadedModel, ServedModel
from tasks.serving.turnstile import RequireClient, Turnstile, while_wanted

BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": CompletionRequest.model_json_schema()}}}}


def make_application(served: ServedModel, key: str = "", turnstile: Turnstile | None = None) -> FastAPI:
    """The application; where there is a `key`, whoever asks must bear it. Other work may share its `turnstile`."""
    application, place = FastAPI(title="gpt2flow", docs_url=None, redoc_url=None), turnstile or Turnstile()
    name_errors(application)

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
        asked = read_request(await read_json(request))
        if asked.stream:
            return await _stream(place, served, asked)

        async def answer(require_client: RequireClient) -> Response:
            async with place.passed():
                loaded = await _model_for(asked, served)
                return JSONResponse(await run_in_threadpool(whole_answer, loaded, asked, require_client))

        return await while_wanted(request, answer)

    return application


def _require_key(request: Request, key: str) -> None:
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    if key and not secrets.compare_digest(given.encode(), key.encode()):
        raise RefusedRequestError("The key is missing or wrong: send the header Authorization: Bearer KEY.", status=401)


async def _model_for(asked: CompletionRequest, served: ServedModel) -> LoadedModel:
    loaded = await run_in_threadpool(served.current)
    if asked.model not in (None, loaded.name, served.reference):
        sentence = f"The model {ascii(asked.model)[:80]} is not served here: leave model out, or give {loaded.name}."
        raise RefusedRequestError(sentence, status=404, parameter="model")
    return loaded


async def _stream(turnstile: Turnstile, served: ServedModel, asked: CompletionRequest) -> Response:
    """What is wrong is said while the answer's status still can; Starlette ends the events when the client goes away."""
    turnstile.require_place()
    loaded = await _model_for(asked, served)
    await run_in_threadpool(require_fit, loaded, asked)
    return StreamingResponse(_events(turnstile, loaded, asked), media_type="text/event-stream")


async def _events(turnstile: Turnstile, loaded: LoadedModel, asked: CompletionRequest) -> AsyncIterator[str]:
    """Server-sent events: a piece of text each, then [DONE]; an error that comes late is an event, too."""
    beginning = head(loaded)
    try:
        async with turnstile.passed():
            async for choice in iterate_in_threadpool(pieces(loaded, asked)):
                yield _event({**beginning, "choices": [choice]})
    except (UserError, RefusedRequestError) as error:
        yield _event(RefusedRequestError(str(error)).as_json())
    yield "data: [DONE]\n\n"


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"
