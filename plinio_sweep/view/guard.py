"""A token before a web application, asked for at every request.

Browsers bring it once, at the end of the address as "?token=TOKEN", and get a cookie for it that
holds as long as this process; programs bring it in the header `Authorization`, as "Bearer TOKEN" or
as the password of any user.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import secrets
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, urlencode

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

SHORTEST = 16  # characters of a token: nobody tries them all
COOKIE = "plinio_sweep"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, which may be anybody's
        return False


def check_token(host: str, token: str | None) -> None:
    """Makes sure that a page which others can reach has a token.

    Raises:
        ValueError: When it has none, or one that is short.
    """
    if token is None and not is_loopback(host):
        raise ValueError(
            f"A page on {host!r} must have a token, for whoever reaches it may delete the study, "
            f"but there is none; set `PLINIO_SWEEP_TOKEN` or `--token`."
        )
    if token is not None and len(token) < SHORTEST:
        raise ValueError(
            f"`token` must have {SHORTEST} characters or more, but has {len(token)}; take for "
            f"instance {secrets.token_urlsafe(SHORTEST)}."
        )


def guarded(app: WSGIApplication, token: str) -> WSGIApplication:
    """`app` for those who know `token`; all others are answered with 401 and nothing else."""
    session = secrets.token_urlsafe(32)

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        query = parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True)
        if any(name == "token" and _same(value, token) for name, value in query):
            return _admit(environ, start_response, query, session)
        if _knows(environ, token, session):
            return app(environ, start_response)
        start_response(
            "401 Unauthorized",
            [("WWW-Authenticate", "Basic"), ("Content-Type", "text/plain; charset=utf-8")],
        )
        return [b"A token must come with every request: add ?token=TOKEN to the address.\n"]

    return answer


def _admit(
    environ: WSGIEnvironment,
    start_response: StartResponse,
    query: list[tuple[str, str]],
    session: str,
) -> Iterable[bytes]:
    """Sends a browser to the same page without the token, which is to stay in no history."""
    rest = urlencode([(name, value) for name, value in query if name != "token"])
    # One slash: two, or one and a backslash, would begin the name of another host.
    path = quote(environ.get("PATH_INFO", "").lstrip("/").encode("latin-1"))
    place = f"/{path}" + (f"?{rest}" if rest else "")
    cookie = f"{COOKIE}={session}; Path=/; HttpOnly; SameSite=Strict"
    start_response("303 See Other", [("Location", place), ("Set-Cookie", cookie)])
    return []


def _knows(environ: WSGIEnvironment, token: str, session: str) -> bool:
    try:
        cookie = SimpleCookie(environ.get("HTTP_COOKIE", "")).get(COOKIE)
    except CookieError:
        cookie = None
    if cookie is not None and _same(cookie.value, session):
        return True
    kind, _, given = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    if kind.lower() == "basic":
        try:
            given = base64.b64decode(given, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return False
    return kind.lower() in ("basic", "bearer") and _same(given, token)


def _same(left: str, right: str) -> bool:
    """In a time that does not tell how much of it is right."""
    return hmac.compare_digest(left.encode(), right.encode())
