"""What is refused before a request is read, and what the browser is told to refuse.

There is no login, and so every page of the web that is open in the same browser must be kept out: a request with the
name of another host (DNS rebinding), or sent by another page, gets no answer.
"""

import asyncio
import re
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kflm2.config.serve import ServeConfig

_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
_LOCAL = ("127.0.0.1", "localhost", "[::1]")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\s]+)(?::\d{1,5})?", re.IGNORECASE)
_BODY_SECONDS = 30
"""Within which the body of a request has to arrive."""


class RefusedError(Exception):
    """A request that gets no answer: a status of HTTP, and the reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Guard:
    """Middleware around the whole application."""

    def __init__(self, app: ASGIApp, config: ServeConfig) -> None:
        """Set what is guarded.

        Args:
            app: the application.
            config: checked.
        """
        self.app, self.config = app, config
        # on another address than this machine's own, the names of this machine are not known
        self._hosts = {*_LOCAL, config.host, f"[{config.host}]"} if config.loopback else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        try:
            self._check(scope["method"], Headers(scope=scope))
            if scope["method"] == "POST":
                receive = _replayed(await self._body(Headers(scope=scope), receive), receive)
        except RefusedError as refusal:
            # what is left of the request is not read
            answer = JSONResponse({"error": str(refusal)}, refusal.status, {"connection": "close"})
            await answer(scope, receive, send_guarded)
            return
        await self.app(scope, receive, send_guarded)

    def _check(self, method: str, headers: Headers) -> None:
        names = headers.getlist("host")
        host = _HOST.fullmatch(names[0]) if len(names) == 1 else None
        if host is None or (self._hosts is not None and host.group(1).lower() not in self._hosts):
            raise RefusedError(403, "this address answers to the names 127.0.0.1 and localhost only")
        if method in ("GET", "HEAD"):
            return
        foreign = (origin := headers.get("origin")) is not None and not _same(origin, names[0])
        if foreign or headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            raise RefusedError(403, "a request from another page is not answered")
        # a page of another origin cannot send this type without being asked first
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise RefusedError(415, "send the request as application/json")

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        """The body, read as far as it may be long, whatever length it says."""
        too_large = RefusedError(413, f"the request is larger than {self.config.max_megabytes:g} MB")
        stated = headers.get("content-length", "0")
        if stated.isdecimal() and int(stated[:20]) > self.config.most_bytes:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise RefusedError(400, "the request ended before its end")
                    body += message.get("body", b"")
                    if len(body) > self.config.most_bytes:
                        raise too_large
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            raise RefusedError(408, f"the request did not arrive within {_BODY_SECONDS} s") from None


def _same(origin: str, host: str) -> bool:
    return origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}")


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A channel that gives a body that has been read, and then what comes after it."""
    messages: Iterable[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    left = iter(messages)

    async def next_message() -> Message:
        message = next(left, None)
        return message if message is not None else await receive()

    return next_message
