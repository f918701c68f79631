"""Who may speak to the studio, this machine or who has the token; and what its page may load."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import SimpleCookie
from typing import Any, TypeAlias
from urllib.parse import parse_qs

from efface.errors import BadRequest

__all__ = ["LOCAL", "Guard", "check_bind"]

LOCAL = ("127.0.0.1", "localhost", "::1")
"""Addresses that only this machine reaches."""
_COOKIE = "efface_studio"
_FEWEST = 16
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' data: blob:; worker-src 'self' blob:; frame-src 'self'; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
"""The page loads nothing from elsewhere and sends nothing there."""

_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)

_Scope: TypeAlias = MutableMapping[str, Any]
_Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_App: TypeAlias = Callable[[_Scope, _Receive, _Send], Awaitable[None]]


def check_bind(host: str, token: str | None) -> None:
    """Refuses to serve other machines without a token.

    Raises:
        BadRequest: there is none, or it is easily guessed.
    """
    if token is not None and len(token) < _FEWEST:
        raise BadRequest(f"the token has {len(token)} characters; give at least {_FEWEST}")
    if host not in LOCAL and token is None:
        raise BadRequest(
            f"{host} can be reached by other machines, which could then erase, draw and read runs; "
            f"give --token with at least {_FEWEST} characters, or leave out --host"
        )


class Guard:
    """Stands before the application; answers in its place what must not pass.

    A request needs the token, where there is one, in the address once (``?token=``), then as a
    cookie. Without a token only names of this machine are answered to: a page of another site whose
    name was made to lead here (DNS rebinding) has its own. Posts from pages of other sites are
    refused either way.
    """

    def __init__(self, app: _App, *, token: str | None = None) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Answers a request, or hands it on."""
        if scope["type"] == "websocket":  # the page opens none
            await send({"type": "websocket.close"})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {
            name.decode("latin-1").lower(): v.decode("latin-1") for name, v in scope["headers"]
        }
        if refused := self._refused(scope, headers):
            await _answer(send, 403, refused)
            return
        given = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [""])[0]
        if self._token is not None and not self._known(headers, given):
            await _answer(send, 401, "open the address with its token, as the terminal shows it")
            return
        cookie = self._cookie() if self._token is not None and given else None

        async def guarded(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                own = [*_HEADERS, *([(b"set-cookie", cookie)] if cookie else [])]
                message = {**message, "headers": [*message.get("headers", ()), *own]}
            await send(message)

        await self._app(scope, receive, guarded)

    def _refused(self, scope: _Scope, headers: dict[str, str]) -> str:
        """Says why a request must not pass; empty where it may."""
        host = headers.get("host", "")
        if self._token is None and _named(host) not in LOCAL:
            return "this address is for this machine alone"
        origin = headers.get("origin")
        writes = scope["method"] not in ("GET", "HEAD")
        if writes and origin is not None and origin.partition("://")[2] != host:
            return "requests from pages of other sites are refused"
        return ""

    def _known(self, headers: dict[str, str], given: str) -> bool:
        found = SimpleCookie(headers.get("cookie", "")).get(_COOKIE)
        told = (given, found.value if found else "")
        return any(hmac.compare_digest(one.encode(), (self._token or "").encode()) for one in told)

    def _cookie(self) -> bytes:
        return f"{_COOKIE}={self._token}; HttpOnly; SameSite=Strict; Path=/".encode("latin-1")


def _named(host: str) -> str:
    """Takes the name out of a Host header."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


async def _answer(send: _Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
