"""Who may speak to the page's server: this user's browser on this machine, and nobody else.

Rules
-----
* Every request must carry the token: in the address at first, then in a cookie that scripts cannot
  read and that other sites cannot have sent.
* The Host header must be ours, which stops names that were rebound to this machine; an Origin
  header must be ours, which stops pages of other sites.
* Answers allow the page to load nothing from anywhere else.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

TOKEN_KEY = "token"
"""Name in the address."""

LOCAL_NAMES = ("127.0.0.1", "localhost")
"""Names under which this machine may be asked."""

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    # Vue compiles the page's templates in the browser, which needs eval.
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
        "connect-src 'self' {sockets}; worker-src 'self' blob:; object-src 'none'; "
        "base-uri 'self'; form-action 'none'; frame-ancestors 'none'"
    ),
}


class Guard:
    """Checks the requests of one server.

    Parameters
    ----------
    token : str, optional
        Made anew if left out.
    """

    def __init__(self, token: str | None = None) -> None:
        self.token = token or secrets.token_urlsafe(24)
        self.port = 0

    def address(self) -> str:
        """Give what the user opens."""
        return f"http://127.0.0.1:{self.port}/?{TOKEN_KEY}={self.token}"

    @property
    def cookie(self) -> str:
        """Name of the cookie; browsers share cookies between ports."""
        return f"protosam_{self.port}"

    def middleware(self) -> Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]:
        """For aiohttp: refuses before any handler runs, WebSockets included."""

        @web.middleware
        async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
            refusal = self.refusal(request)
            if refusal:
                return web.Response(
                    status=HTTPStatus.FORBIDDEN, text=f"{refusal}\n", headers=self._headers()
                )
            if request.method == "GET" and TOKEN_KEY in request.query:
                return self._enter(request)
            try:
                response = await handler(request)
            except web.HTTPException as error:
                error.headers.update(self._headers())
                raise
            if not response.prepared:
                response.headers.update(self._headers())
            return response

        return check

    def refusal(self, request: web.Request) -> str:
        """Why a request is refused; empty = it is not."""
        hosts = [f"{name}:{self.port}" for name in LOCAL_NAMES]
        if request.headers.get("Host", "") not in hosts:
            return "This server answers on this machine alone, under its own address."
        origin = request.headers.get("Origin")
        if origin is not None and origin not in [f"http://{host}" for host in hosts]:
            return "Pages of other sites may not use this server."
        given = request.cookies.get(self.cookie, "")
        if request.method == "GET" and TOKEN_KEY in request.query:
            given = request.query[TOKEN_KEY]
        if not hmac.compare_digest(given.encode(), self.token.encode()):
            return "Open the whole address that `protosam app` has printed; it holds a token."
        return ""

    def _enter(self, request: web.Request) -> web.StreamResponse:
        """Put the token into a cookie and out of the address, where it would be seen."""
        response = web.Response(
            status=HTTPStatus.FOUND, headers={**self._headers(), "Location": request.path}
        )
        response.set_cookie(self.cookie, self.token, httponly=True, samesite="Strict", path="/")
        return response

    def _headers(self) -> dict[str, str]:
        sockets = " ".join(f"ws://{name}:{self.port}" for name in LOCAL_NAMES)
        return {key: text.replace("{sockets}", sockets) for key, text in HEADERS.items()}
