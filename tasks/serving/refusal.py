"""Errors over HTTP: one sentence each in OpenAI's form, whatever happened."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from configs.errors import UserError
from tasks.terminal.console import warn


class RefusedRequestError(Exception):
    """A request that is not answered, with HTTP's status and the parameter concerned."""

    def __init__(self, message: str, status: int = 400, parameter: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.parameter = parameter

    def as_json(self) -> dict[str, Any]:
        """As OpenAI's clients expect it."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": str(self), "type": kind, "param": self.parameter, "code": None}}


def name_errors(application: FastAPI) -> None:
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
