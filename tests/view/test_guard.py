"""Who comes in: those who know the token, however they bring it, and nobody else."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import quote
from wsgiref.util import setup_testing_defaults

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plinio_sweep.view.guard import SHORTEST, check_token, guarded, is_loopback
from tests.messages import is_sentence

TOKEN = "correct horse, baterías"


def inner(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"secret"]


def ask(app: Any, **environ: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body."""
    told: list[tuple[str, list[tuple[str, str]]]] = []
    whole: dict[str, Any] = {"QUERY_STRING": "", **environ}
    setup_testing_defaults(whole)
    body = b"".join(app(whole, lambda status, headers: told.append((status, headers))))
    ((status, headers),) = told
    return int(status[:3]), dict(headers), body


def basic(user: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


@pytest.mark.parametrize("words", [f"Bearer {TOKEN}", f"bearer {TOKEN}", basic("ada", TOKEN)])
def test_a_program_brings_it_in_a_header(words: str) -> None:
    assert ask(guarded(inner, TOKEN), HTTP_AUTHORIZATION=words)[::2] == (200, b"secret")


def test_a_browser_brings_it_once() -> None:
    app = guarded(inner, TOKEN)
    query = f"a=1&token={quote(TOKEN)}&b=x%26y"
    status, headers, body = ask(app, PATH_INFO="/dashboard/studies", QUERY_STRING=query)
    assert (status, body) == (303, b"")
    assert headers["Location"] == "/dashboard/studies?a=1&b=x%26y"
    assert "HttpOnly" in headers["Set-Cookie"] and TOKEN not in headers["Set-Cookie"]
    cookie = headers["Set-Cookie"].partition(";")[0]
    assert ask(app, HTTP_COOKIE=f"other=1; {cookie}")[::2] == (200, b"secret")
    # It is of that process alone.
    assert ask(guarded(inner, TOKEN), HTTP_COOKIE=cookie)[0] == 401


@pytest.mark.parametrize(
    "environ",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"QUERY_STRING": "token="}, id="empty"),
        pytest.param({"QUERY_STRING": f"token={quote(TOKEN[:-1])}"}, id="almost"),
        pytest.param({"HTTP_AUTHORIZATION": f"Digest {TOKEN}"}, id="another scheme"),
        pytest.param({"HTTP_AUTHORIZATION": TOKEN}, id="no scheme"),
        pytest.param({"HTTP_AUTHORIZATION": basic(TOKEN, "")}, id="as the user"),
        pytest.param({"HTTP_AUTHORIZATION": "Basic ?"}, id="not in base 64"),
        pytest.param({"HTTP_AUTHORIZATION": "Basic /w=="}, id="no text"),
        pytest.param({"HTTP_COOKIE": f"plinio_sweep={TOKEN}"}, id="as the cookie"),
        pytest.param({"HTTP_COOKIE": "plinio_sweep="}, id="empty cookie"),
        pytest.param({"HTTP_COOKIE": "\x00=;;=\x7f"}, id="no cookie"),
    ],
)
def test_nobody_else_comes_in(environ: dict[str, str]) -> None:
    status, headers, body = ask(guarded(inner, TOKEN), **environ)
    assert (status, headers["WWW-Authenticate"]) == (401, "Basic")
    assert b"secret" not in body and TOKEN.encode() not in body


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    query=st.text(max_size=40),
    header=st.text(max_size=40),
    cookie=st.text(max_size=40),
)
def test_no_request_breaks_the_door(query: str, header: str, cookie: str) -> None:
    environ = {"QUERY_STRING": query, "HTTP_AUTHORIZATION": header, "HTTP_COOKIE": cookie}
    assert ask(guarded(inner, TOKEN), **environ)[0] == 401


@pytest.mark.parametrize("path", ["//evil.example/", "/\\evil.example", "/a\r\nSet-Cookie: b=c"])
def test_the_way_on_leads_to_no_other_host(path: str) -> None:
    query = f"token={quote(TOKEN)}"
    _, headers, _ = ask(guarded(inner, TOKEN), PATH_INFO=path, QUERY_STRING=query)
    assert headers["Location"].startswith("/")
    assert headers["Location"][1:2] not in ("/", "\\")
    assert not {"\r", "\n"} & set(headers["Location"])


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        *(("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True)),
        *(("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("localhost.example", False)),
    ],
)
def test_which_hosts_only_this_machine_reaches(host: str, expected: bool) -> None:
    assert is_loopback(host) == expected
    if expected:
        check_token(host, None)
    else:
        with pytest.raises(ValueError, match="must have a token") as error:
            check_token(host, None)
        assert is_sentence(error.value)
    check_token(host, SHORTEST * "x")


def test_a_short_token_is_refused_everywhere() -> None:
    with pytest.raises(ValueError, match="must have 16 characters or more, but has 15") as error:
        check_token("127.0.0.1", (SHORTEST - 1) * "x")
    assert is_sentence(error.value)
