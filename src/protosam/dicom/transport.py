"""HTTP as a PACS is spoken to: bounded in size and time, and never content with half an answer.

Rules
-----
* An answer is read to its end under a limit of bytes and one of time for the whole of it; a server
  that drips cannot hold a batch for ever.
* A multipart answer without its closing mark is an interrupted connection, whatever its status.
* What may pass (no connection, time-outs, 408, 429, 5xx, broken answers) is tried again with
  growing pauses; what will not pass by itself (401, 403, 404 ...) is reported at once.
* Credentials go to https, or to this machine; they stand in no message and no `repr`.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import HTTPError, ReadTimeoutError

from protosam.dicom.faults import DAMAGED
from protosam.errors import InvalidInput, ProtoSAMError, ServerFailure

Answer = TypeVar("Answer")

_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_LONGEST_PAUSE_S = 30.0
_CHUNK_BYTES = 1 << 18
_MEANINGS = {
    401: ("it wants a user name or a token, or refuses the ones given", "Check the credentials."),
    403: ("these credentials are not allowed to do this", "Ask for access."),
    404: ("there is no such thing", "Check the address, and the UIDs of study and series."),
    409: ("it refuses to store the object", "See the log of the server for its reason."),
    413: ("the object is too large for it", "Ask for a higher limit, or send it another way."),
}


@dataclass(frozen=True)
class Server:
    """Where a PACS is, who asks, and how long to wait."""

    url: str
    """Root of its DICOMweb service, as https://pacs.example/dicom-web."""
    token: str = field(default="", repr=False)
    """Bearer token; '' without one."""
    user: str = field(default="", repr=False)
    """For basic authentication; '' without it."""
    password: str = field(default="", repr=False)
    ca_file: str = ""
    """Certificates to trust instead of the system's; '' for those."""
    connect_s: float = 10.0
    """Longest wait for a connection."""
    silence_s: float = 60.0
    """Longest wait for the next byte."""
    whole_s: float = 1800.0
    """Longest time for one whole answer."""
    attempts: int = 4
    """How often something is tried."""
    pause_s: float = 1.0
    """Before the second attempt; doubled before each further one."""
    answer_bytes: int = 4 << 30
    """Largest answer."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise InvalidInput(
                "The address of the PACS is no http or https address, or has a user name in it.",
                "Give it as https://host/dicom-web, and the credentials apart from it.",
            )
        has_secret = bool(self.token or self.user or self.password)
        if has_secret and parts.scheme == "http" and not _is_here(parts.hostname):
            raise InvalidInput(
                f"Credentials would go to {parts.hostname} without encryption.", "Use https."
            )
        if self.attempts < 1:
            raise InvalidInput(f"{self.attempts} attempts are none.", "Allow at least one.")

    @property
    def host(self) -> str:
        """Host and port, for messages."""
        return urlsplit(self.url).netloc


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class BoundedSession(requests.Session):
    """A session whose answers are whole, not too large and not too slow."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._server = server
        self.verify = server.ca_file or True
        if server.token:
            self.headers["Authorization"] = f"Bearer {server.token}"
        elif server.user:
            self.auth = (server.user, server.password)
        # Without it, requests takes credentials for a host from ~/.netrc instead of these.
        self.trust_env = False

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """Send a request and read its answer to the end, within the limits."""
        kwargs["stream"] = True
        end = time.monotonic() + self._server.whole_s
        response = super().send(request, **kwargs)
        # What requests itself sets once an answer was read.
        response._content = self._body(response, end)
        response._content_consumed = True
        response.close()
        _refuse_half(response)
        return response

    def _body(self, response: requests.Response, end: float) -> bytes:
        parts: list[bytes] = []
        size = 0
        # read1 gives what has come; the other ways wait for a full chunk, and a server that drips
        # could make that wait as long as it likes.
        while part := _next_part(response):
            parts.append(part)
            size += len(part)
            if size > self._server.answer_bytes:
                response.close()
                raise ServerFailure(
                    f"{self._server.host} sent more than {self._server.answer_bytes} bytes.",
                    "Raise the limit if objects of this size are meant to be there.",
                )
            if time.monotonic() > end:
                response.close()
                raise requests.ReadTimeout("the whole answer took too long")
        return b"".join(parts)


def _next_part(response: requests.Response) -> bytes:
    """Read on; urllib3's errors become those of requests, as `tried` knows them."""
    try:
        part: bytes = response.raw.read1(_CHUNK_BYTES, decode_content=True)
    except ReadTimeoutError as error:
        raise requests.ReadTimeout("no further byte came") from error
    except HTTPError as error:
        raise requests.exceptions.ChunkedEncodingError("the answer broke off") from error
    return part


def _refuse_half(response: requests.Response) -> None:
    kind = response.headers.get("Content-Type", "")
    if "multipart/" not in kind.lower() or "boundary=" not in kind or not response.ok:
        return
    boundary = kind.split("boundary=", 1)[1].split(";")[0].strip(' "').encode()
    if not (response.content or b"").rstrip().endswith(b"--" + boundary + b"--"):
        raise requests.exceptions.ChunkedEncodingError("the answer ends before its closing mark")


def tried(server: Server, what: str, call: Callable[[], Answer]) -> Answer:
    """Do something that a server may fail at, again if that may help.

    Parameters
    ----------
    server : Server
        Which one, and how often to try.
    what : str
        What is done, for the message, as 'listing series'.
    call : callable
        Does it; must be harmless to repeat.

    Raises
    ------
    ServerFailure
        It did not work, with the reason of the last attempt.
    """
    reason = ""
    for attempt in range(server.attempts):
        pause = server.pause_s * 2**attempt
        try:
            return call()
        except requests.HTTPError as error:
            status, asked = _status(error.response)
            if status not in _PASSING:
                raise _refused(server, what, status) from None
            reason = f"it answers with status {status}"
            pause = max(pause, asked)
        except requests.exceptions.SSLError:
            raise ServerFailure(
                f"The certificate of {server.host} is not trusted.",
                "Give the certificate of its authority (ca_file).",
            ) from None
        except requests.Timeout:
            reason = "it does not answer in time"
        except requests.exceptions.ChunkedEncodingError:
            reason = "its answer broke off"
        except requests.ConnectionError:
            reason = "it cannot be reached, or hung up"
        except ProtoSAMError:
            raise
        except DAMAGED:
            # Of the libraries that take answers apart; their messages may quote what was in them.
            reason = "its answer is damaged, or no DICOMweb"
        if attempt + 1 < server.attempts:
            time.sleep(min(pause, _LONGEST_PAUSE_S))
    times = "once" if server.attempts == 1 else f"{server.attempts} times"
    raise ServerFailure(
        f"{server.host} failed at {what}, tried {times}: {reason}.",
        "Check that the server runs and try again; what was done so far is kept.",
    )


def _refused(server: Server, what: str, status: int) -> ServerFailure:
    meaning, step = _MEANINGS.get(status, ("", "See the log of the server."))
    reason = f"{meaning} ({status})" if meaning else f"it answers with status {status}"
    return ServerFailure(f"{server.host} refused {what}: {reason}.", step)


def _status(response: requests.Response | None) -> tuple[int, float]:
    """Status, and the seconds that the server asks to wait for (0 where it names none)."""
    if response is None:
        return 0, 0.0
    value = response.headers.get("Retry-After", "")
    return response.status_code, float(value) if value.isascii() and value.isdigit() else 0.0
