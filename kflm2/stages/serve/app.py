"""The application: a page, its files, and what it asks for as JSON."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib import resources
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from kflm2 import __version__
from kflm2.config.serve import ServeConfig
from kflm2.errors import KFLM2Error
from kflm2.stages.serve.guard import Guard
from kflm2.stages.serve.questions import ExplainQuestion, Explanation, Failure, Predictions, PredictQuestion
from kflm2.stages.serve.worker import BrokenError, OverdueError, Worker

_FILES = {
    "/": ("serve", "page.html", "text/html"),
    "/elements.js": ("report", "elements.js", "text/javascript"),
    "/page.js": ("serve", "page.js", "text/javascript"),
    "/base.css": ("report", "page.css", "text/css"),
    "/page.css": ("serve", "page.css", "text/css"),
    "/api": ("serve", "api.txt", "text/plain"),
}
"""Address -> stage, file in its folder static, and type."""
_FAILURES: dict[int | str, dict[str, Any]] = {
    status: {"model": Failure} for status in (400, 403, 413, 415, 422, 500, 503, 504)
}
_NO_TELEMETRY: Any = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
"""Variables of the environment could make FastAPI report requests to another host."""
_LONGEST = 80
"""Characters of the name of a wrong field that are repeated to the client."""


class BusyError(KFLM2Error):
    """Too many requests wait."""


class Queue:
    """One question at a time; a few may wait."""

    def __init__(self, worker: Worker, waiting: int) -> None:
        """Set who answers, and how many may wait beside the one that is answered."""
        self.worker, self.waiting = worker, waiting
        self._lock, self._count = asyncio.Lock(), 0

    async def ask(self, request: Request, method: str, question: dict[str, Any]) -> Response:
        """The answer as JSON; see Worker.ask.

        Raises:
            KFLM2Error: see Worker.ask; a BusyError where too many wait.
        """
        if self._count > self.waiting:
            raise BusyError("the model is busy and the waiting line is full; try again in a minute")
        self._count += 1
        try:
            async with self._lock:
                if await request.is_disconnected():
                    return Response(status_code=499)  # nobody waits for the answer any more
                return JSONResponse(await asyncio.to_thread(self.worker.ask, method, question))
        finally:
            self._count -= 1


def make_app(config: ServeConfig, worker: Worker) -> FastAPI:
    """The application.

    Args:
        config: checked.
        worker: has the model; it is closed when the application ends.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        worker.close()

    # FastAPI's own pages of documentation load scripts from other hosts
    app = FastAPI(
        title="KFLM2", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan, telemetry=_NO_TELEMETRY
    )
    app.add_middleware(Guard, config=config)
    _add_failures(app)
    _add_files(app, config)
    queue = Queue(worker, config.waiting)
    about = {
        **worker.about,
        "version": __version__,
        "limits": {"molecules": config.limit, "bytes": config.most_bytes, "seconds": config.time_limit},
    }

    @app.get("/api/model", summary="What the model predicts, and how well")
    async def model() -> dict[str, Any]:
        return about

    @app.post("/api/predict", summary="Predict molecules", response_model=Predictions, responses=_FAILURES)
    async def predict(question: PredictQuestion, request: Request) -> Response:
        return await queue.ask(request, "predict", {"source": question.source(), "drawings": question.drawings})

    @app.post("/api/explain", summary="Explain a prediction", response_model=Explanation, responses=_FAILURES)
    async def explain(question: ExplainQuestion, request: Request) -> Response:
        return await queue.ask(request, "explain", question.model_dump())

    return app


def _add_files(app: FastAPI, config: ServeConfig) -> None:
    """Add the files of the page, each at an address of its own: no path is ever made of a request."""

    def answer(content: str, media_type: str) -> Callable[[], Awaitable[Response]]:
        async def file() -> Response:
            return Response(content, media_type=media_type)

        return file

    numbers = {"limit": config.limit, "megabytes": config.max_megabytes, "seconds": config.time_limit}
    for address, (stage, name, media_type) in _FILES.items():
        content = resources.files(f"kflm2.stages.{stage}").joinpath("static", name).read_text(encoding="utf-8")
        if name == "api.txt":
            for key, number in numbers.items():
                content = content.replace(f"{{{{{key}}}}}", f"{number:.12g}")
        app.add_api_route(address, answer(content, media_type), methods=["GET"], include_in_schema=False)


def _add_failures(app: FastAPI) -> None:
    """Every failure is JSON with one sentence."""

    def failure(status: int) -> Callable[[Request, Exception], Response]:
        return lambda _, error: JSONResponse({"error": str(error)}, status)

    app.add_exception_handler(KFLM2Error, failure(400))
    app.add_exception_handler(BusyError, failure(503))
    app.add_exception_handler(OverdueError, failure(504))
    app.add_exception_handler(BrokenError, failure(500))
    app.add_exception_handler(HTTPException, _http_failure)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(
        Exception, lambda *_: JSONResponse({"error": "an unexpected fault; the window of kflm2 serve tells more"}, 500)
    )


def _http_failure(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentences = {400: "the request is not JSON", 404: "there is nothing at this address", 405: "use another method"}
    headers = error.headers if error.status_code == 405 else None
    return JSONResponse({"error": sentences.get(error.status_code, error.detail)}, error.status_code, headers)


def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return JSONResponse({"error": "the request is not JSON"}, 422)
    # of several types that a value may have, pydantic adds the one that it tried to the place
    where = ".".join(str(part) for part in first["loc"] if part != "body" and "[" not in str(part))
    # ascii: half of a surrogate pair cannot be sent back
    name = ascii(where if len(where) <= _LONGEST else f"{where[:_LONGEST]}...")
    message = str(first["msg"]).removeprefix("Value error, ")
    return JSONResponse({"error": f"{name}: {message}" if where else message}, 422)
