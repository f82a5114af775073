"""What the guard lets through: requests of the page itself and of programs, of a bounded size."""

import asyncio
import itertools

import pytest

pytest.importorskip("fastapi")

from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from kflm2.config.serve import ServeConfig
from kflm2.stages.serve.guard import Guard

PAGE = "http://127.0.0.1:8000"
JSON = {"content-type": "application/json"}


async def _echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = await Request(scope, receive).body()
    await PlainTextResponse(body)(scope, receive, send)


def _client(**settings: object) -> TestClient:
    return TestClient(Guard(_echo, ServeConfig(**settings)), base_url=PAGE)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1", "127.0.0.1:80", "[::1]:8000"])
def test_names_of_this_machine_are_answered(host: str) -> None:
    assert _client().get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "127.0.0.1.evil.example",
        "localhost.evil.example:8000",
        "localhost:8000@evil.example",
        "evil.example#127.0.0.1",
        "192.168.0.1",
        "127.0.0.1:8000:80",
        "",
    ],
)
def test_another_name_that_leads_to_this_machine_is_refused(host: str) -> None:
    answer = _client().get("/", headers={"host": host})
    assert answer.status_code == 403 and list(answer.json()) == ["error"]


def test_an_address_for_others_has_any_name_and_still_no_other_pages() -> None:
    client = _client(host="0.0.0.0")
    named = {"host": "lab-server:8000", **JSON}
    assert client.post("/", headers={**named, "origin": "http://lab-server:8000"}).status_code == 200
    assert client.post("/", headers={**named, "origin": PAGE}).status_code == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (JSON, 200),
        ({"content-type": "Application/JSON; charset=utf-8"}, 200),
        ({**JSON, "origin": PAGE, "sec-fetch-site": "same-origin"}, 200),
        ({**JSON, "origin": "http://localhost:3000"}, 403),
        ({**JSON, "origin": f"{PAGE}.evil.example"}, 403),
        ({**JSON, "origin": "null"}, 403),
        ({**JSON, "origin": ""}, 403),
        ({**JSON, "sec-fetch-site": "cross-site"}, 403),
        ({**JSON, "sec-fetch-site": "same-site"}, 403),
        # the types that a form of another page can send
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "multipart/form-data; boundary=application/json"}, 415),
        ({"content-type": "text/plain; application/json"}, 415),
        ({}, 415),
    ],
)
def test_a_post_of_another_page_is_refused(headers: dict[str, str], status: int) -> None:
    answer = _client().post("/", content=b"{}", headers=headers)
    assert answer.status_code == status
    assert answer.text == "{}" if status == 200 else list(answer.json()) == ["error"]


def test_a_body_arrives_unchanged_up_to_the_limit_and_is_read_no_further() -> None:
    client = _client(max_megabytes=0.001)
    body = bytes(range(250)) * 4
    assert client.post("/", content=body, headers=JSON).content == body
    assert client.post("/", content=body + b"x", headers=JSON).status_code == 413
    # a stated length is enough to refuse
    huge = {**JSON, "content-length": "9" * 30}
    assert client.post("/", content=b"", headers=huge).status_code == 413


@pytest.mark.parametrize("stated", [[], [(b"content-length", b"5")]])
def test_a_body_without_end_is_read_no_further_than_the_limit(stated: list[tuple[bytes, bytes]]) -> None:
    parts, sent = itertools.count(), []

    async def receive() -> Message:
        next(parts)
        return {"type": "http.request", "body": b"x" * 100, "more_body": True}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json"), *stated]
    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": headers}
    asyncio.run(Guard(_echo, ServeConfig(max_megabytes=0.001))(scope, receive, send))
    assert sent[0]["status"] == 413 and next(parts) == 11


def test_every_answer_forbids_scripts_and_frames_of_other_hosts() -> None:
    for answer in (_client().get("/"), _client().get("/", headers={"host": "evil.example"})):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert not [name for name in answer.headers if name.startswith("access-control")]
