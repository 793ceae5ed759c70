"""The page and what it asks for, behind the application of `tasks.serving`: the same strictness, the same queue.

Only this machine's browser gets answers: a foreign name for 127.0.0.1 is refused, and so is whatever a page from elsewhere can
send without asking. The page may fetch nothing from anywhere else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import partial
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from starlette.concurrency import run_in_threadpool
from starlette.middleware.trustedhost import TrustedHostMiddleware

from gpt2core.generation.sampling import generate_response
from tasks.play.duels import Arena
from tasks.play.lens import LensView
from tasks.play.page import render_page
from tasks.play.play_request import ChatRequest, DuelRequest, LensRequest, VoteRequest
from tasks.play.votes import log_vote
from tasks.serving.application import make_application
from tasks.serving.refusal import RefusedRequestError
from tasks.serving.request_body import Body, read_fields, read_json
from tasks.serving.served_model import ServedModel
from tasks.serving.turnstile import RequireClient, Turnstile, while_wanted

NAMES = ["127.0.0.1", "localhost", "[::1]"]
OWN_CONTENT_ONLY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
Asked = TypeVar("Asked", bound=Body)
Work = Callable[[Asked, RequireClient], dict[str, Any]]


def make_play(served: ServedModel, weights: str = "auto") -> FastAPI:
    """The application of the page, which shows and asks `served`."""
    turnstile, lens, arena = Turnstile(), LensView(), Arena(served.reference, weights)
    application = make_application(served, turnstile=turnstile)
    application.middleware("http")(_require_json)
    application.add_middleware(TrustedHostMiddleware, allowed_hosts=NAMES)

    @application.get("/")
    async def page() -> HTMLResponse:
        loaded = await run_in_threadpool(served.current)
        return HTMLResponse(render_page(loaded), headers={"Content-Security-Policy": OWN_CONTENT_ONLY})

    def answer_to(asked: ChatRequest, require_client: RequireClient) -> dict[str, Any]:
        loaded, prompt = served.current(), "".join(f"{line}\n" for line in asked.lines)
        said = partial(generate_response, loaded.model, loaded.tokenizer, prompt, asked.length, asked.temperature)
        return {"text": said(seed=asked.seed, after_step=require_client)}

    def look(asked: LensRequest, _: RequireClient) -> dict[str, Any]:
        return {"page": lens.page(served.current(), asked)}

    def fight(asked: DuelRequest, require_client: RequireClient) -> dict[str, Any]:
        duel = arena.fight(asked, require_client)
        return {"duel": duel.number, "texts": duel.sides}

    def vote(asked: VoteRequest) -> dict[str, Any]:
        return _record_vote(arena, asked)

    _add(application, "/play/chat", ChatRequest, _in_turn(turnstile, answer_to))
    _add(application, "/play/lens", LensRequest, _in_turn(turnstile, look))
    _add(application, "/play/duel", DuelRequest, _in_turn(turnstile, fight))
    _add(application, "/play/vote", VoteRequest, _at_once(vote))
    return application


def _add(application: FastAPI, path: str, kind: type[Asked], work: Callable[[Request, Asked], Awaitable[Response]]) -> None:
    """Serve a path whose requests have the fields of `kind`."""

    @application.post(path)
    async def answer(request: Request) -> Response:
        return await work(request, read_fields(kind, await read_json(request)))


def _in_turn(turnstile: Turnstile, work: Work[Asked]) -> Callable[[Request, Asked], Awaitable[Response]]:
    """Compute one at a time, for as long as the client waits."""

    async def answer(request: Request, asked: Asked) -> Response:
        async def compute(require_client: RequireClient) -> Response:
            async with turnstile.passed():
                return JSONResponse(await run_in_threadpool(work, asked, require_client))

        return await while_wanted(request, compute)

    return answer


def _at_once(work: Callable[[Asked], dict[str, Any]]) -> Callable[[Request, Asked], Awaitable[Response]]:
    """What computes nothing need not wait, and once begun it comes to its end."""

    async def answer(_: Request, asked: Asked) -> Response:
        return JSONResponse(await run_in_threadpool(work, asked))

    return answer


def _record_vote(arena: Arena, asked: VoteRequest) -> dict[str, Any]:
    duel = arena.take(asked.duel)
    try:
        tally = log_vote(MlflowClient(), duel, asked.choice)
    except (MlflowException, OSError) as error:
        arena.give_back(duel)
        reason = str(error).splitlines()[0][:200]
        raise RefusedRequestError(f"MLflow did not take the vote ({reason}): vote again.", status=503) from None
    return {"left": duel.left, "champion": duel.champion, "candidate": duel.candidate, "votes": asdict(tally)}


async def _require_json(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
    """A page from elsewhere can only send other types without the browser asking first, and asking is not answered."""
    if request.method == "POST" and request.headers.get("content-type", "").partition(";")[0] != "application/json":
        sentence = "The body is not declared as JSON: send the header Content-Type: application/json."
        return JSONResponse(RefusedRequestError(sentence).as_json(), 415)
    return await go_on(request)
