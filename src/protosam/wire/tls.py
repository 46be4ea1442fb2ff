"""Frames over TLS: the stream, the token, and the address of a worker that listens.

Rules
-----
* TLS 1.3 and nothing older. A client checks certificate and name; there is no way to leave it out.
* The first bytes inside are the client's token (`PSAT`, two bytes of length, the token); the
  listener answers with one of `ACCEPTED`, `REFUSED` and `FULL`. Frames come after that.
* One thread may read while another one writes. OpenSSL's own object is never used by two at once:
  it works on memory under a lock, and only ciphertext waits for the network.
* It knows bytes, not what frames say. A token stands in no message, log or `repr`.
"""

from __future__ import annotations

import hashlib
import hmac
import socket
import ssl
import struct
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from protosam.errors import InvalidInput, UnreadableFile, WorkerFailure

TICK_S = 0.5
"""Longest wait in one read or write; who waits longer looks around in between."""

STALL_S = 20.0
"""How long the other end may leave a write, a handshake or a token unfinished."""

CIPHER_BYTES = 1 << 18
"""Ciphertext that is taken from the network at a time."""

TOKEN_LETTERS = 16
"""Fewest letters of a token; `openssl rand -hex 32` makes 64."""

ACCEPTED, REFUSED, FULL = b"PSOK", b"PSNO", b"PSFU"

_TOKEN_MAGIC = b"PSAT"
_TOKEN_LENGTH = struct.Struct("<H")


@dataclass(frozen=True)
class ServerAddress:
    """Where a worker listens, and how it is spoken to."""

    host: str
    """Name or number, as it stands in the certificate."""
    port: int
    token: str = field(repr=False)
    """What lets a client in."""
    ca_file: Path | None = None
    """Certificates that are trusted; None = those of the system."""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def server_address(text: str, token_file: Path | None, ca_file: Path | None) -> ServerAddress:
    """Address as the user gives it.

    Parameters
    ----------
    text : str
        ``HOST:PORT``, or ``[v6]:PORT``.
    token_file : Path or None
        File with the token in it.
    ca_file : Path or None
        Certificates to trust.

    Raises
    ------
    InvalidInput
        No host and port, no token file, or a token that is too short.
    UnreadableFile
        A file that is not there.
    """
    host, port = host_and_port(text)
    if token_file is None:
        raise InvalidInput(
            f"There is no token for the worker at {text}.", "Give --token-file FILE."
        )
    if ca_file is not None and not ca_file.is_file():
        raise UnreadableFile(f"There is no file {ca_file}.", "Name the certificate to trust.")
    return ServerAddress(host, port, read_token(token_file), ca_file)


def host_and_port(text: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``.

    Raises
    ------
    InvalidInput
        It is none.
    """
    host, colon, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    plain = host == bare and ":" in bare
    if not colon or not bare or plain or not port.isdecimal() or int(port) > 65535:
        raise InvalidInput(
            f"{text!r} is no host and port.", "Write it as gpu.example:7310 or [::1]:7310."
        )
    return bare, int(port)


def read_token(path: Path) -> str:
    """Token in a file, without the blanks around it.

    Raises
    ------
    UnreadableFile
        The file cannot be read.
    InvalidInput
        The token is too short, or is not one word of plain letters.
    """
    try:
        token = path.read_text("ascii").strip()
    except UnicodeDecodeError:
        token = ""
    except OSError as error:
        raise UnreadableFile(
            f"The token file {path} cannot be read: {error.strerror}.",
            "Make one: openssl rand -hex 32 > token; chmod 600 token",
        ) from error
    if len(token) < TOKEN_LETTERS or len(token.split()) != 1 or not token.isprintable():
        raise InvalidInput(
            f"The token in {path} is not one word of at least {TOKEN_LETTERS} plain letters.",
            "Make one: openssl rand -hex 32 > token; chmod 600 token",
        )
    return token


def client_context(ca_file: Path | None) -> ssl.SSLContext:
    """Make what a client believes: the certificates of a file, or of the system.

    Raises
    ------
    InvalidInput
        The file holds no certificate.
    """
    try:
        context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    except (ssl.SSLError, OSError) as error:
        raise InvalidInput(
            f"{ca_file} holds no certificate that can be read.", "Give a file in PEM format."
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Make what a listener shows.

    Raises
    ------
    InvalidInput
        Certificate and key cannot be read, do not belong together, or the key has a password.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        # With an empty password a locked key is an error, and not a question on the terminal.
        context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, OSError, ValueError) as error:
        raise InvalidInput(
            f"Certificate {certificate} and key {key} cannot be used together.",
            "Give a certificate and its own key, both in PEM format, the key without a password.",
        ) from error
    return context


class SecureStream:
    """Plain bytes on this side, TLS on a socket.

    Parameters
    ----------
    connected : socket.socket
        Connected; closed by `close`.
    context : ssl.SSLContext
    host : str or None
        Name that the certificate must have; None = this is the listener's end.
    """

    def __init__(
        self, connected: socket.socket, context: ssl.SSLContext, host: str | None = None
    ) -> None:
        connected.settimeout(TICK_S)
        self._socket = connected
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=host is None, server_hostname=host
        )
        self._using, self._sending = threading.Lock(), threading.Lock()

    def shake_hands(self) -> None:
        """Agree on keys.

        Raises
        ------
        OSError
            The other end is not there any more, does not answer, or is not to be believed
            (`ssl.SSLError` is one).
        """
        end = time.monotonic() + STALL_S
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._send(self._outgoing.read())
            except ssl.SSLError:
                self._send(self._outgoing.read())  # the alert that says why
                raise
            self._take_cipher()
            if time.monotonic() > end:
                raise TimeoutError("the other end does not answer")
        self._send(self._outgoing.read())

    def readinto(self, buffer: memoryview) -> int | None:
        """Read what is there, as raw streams do.

        Returns
        -------
        int or None
            Bytes; 0 = the other end has ended; None = nothing came within `TICK_S`.

        Raises
        ------
        OSError
            The connection is broken.
        """
        while (count := self._read_plain(buffer)) is None:
            if not self._take_cipher():
                return None
        return count

    def read_exactly(self, count: int) -> bytes:
        """Read so many bytes, within `STALL_S`.

        Raises
        ------
        OSError
            They did not come.
        """
        end = time.monotonic() + STALL_S
        data = bytearray(count)
        position = 0
        while position < count:
            got = self.readinto(memoryview(data)[position:])
            if got == 0 or time.monotonic() > end:
                raise ConnectionResetError("the other end has said too little")
            position += got or 0
        return bytes(data)

    def write(self, data: memoryview) -> int:
        """Write all of it; returns its length.

        Raises
        ------
        OSError
            The other end takes nothing any more.
        """
        with self._sending:
            with self._using:
                rest = memoryview(data)
                while rest:
                    rest = rest[self._tls.write(rest) :]
                cipher = self._outgoing.read()
            self._send(cipher)
        return len(data)

    def end_writing(self) -> None:
        """Say that nothing more comes; reading goes on."""
        self._shut(socket.SHUT_WR)

    def close(self) -> None:
        """End both ways at once; harmless twice, and from any thread."""
        self._shut(socket.SHUT_RDWR)
        self._socket.close()

    def _shut(self, how: int) -> None:
        try:
            self._socket.shutdown(how)
        except OSError:
            return  # it has ended already

    def _read_plain(self, buffer: memoryview) -> int | None:
        """Decrypt what has come; None if more ciphertext is needed, 0 at the end."""
        with self._using:
            try:
                count: int = self._tls.read(len(buffer), buffer)  # type: ignore[assignment]
            except ssl.SSLWantReadError:
                return None
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return 0
            return count  # with a buffer it gives a number, whatever the stubs say

    def _take_cipher(self) -> bool:
        """Take ciphertext from the network; False if there was none within `TICK_S`."""
        try:
            data = self._socket.recv(CIPHER_BYTES)
        except TimeoutError:
            return False
        with self._using:
            if data:
                self._incoming.write(data)
            else:
                self._incoming.write_eof()
        return True

    def _send(self, cipher: bytes) -> None:
        rest, end = memoryview(cipher), time.monotonic() + STALL_S
        while rest:
            sent = self._send_some(rest)
            rest = rest[sent:]
            if sent:
                end = time.monotonic() + STALL_S
            elif time.monotonic() > end:
                raise TimeoutError("the other end takes nothing")

    def _send_some(self, cipher: memoryview) -> int:
        try:
            return self._socket.send(cipher)
        except TimeoutError:
            return 0


def show_token(stream: SecureStream, address: ServerAddress) -> None:
    """Say the token and hear whether it was the right one; the client's part.

    Raises
    ------
    WorkerFailure
        It was not, or the listener has no place left.
    OSError
        The connection has ended.
    """
    token = address.token.encode("ascii")
    stream.write(memoryview(_TOKEN_MAGIC + _TOKEN_LENGTH.pack(len(token)) + token))
    answer = stream.read_exactly(len(ACCEPTED))
    if answer == REFUSED:
        raise WorkerFailure(
            f"The worker at {address} refuses the token.", "Ask its owner for the right token file."
        )
    if answer == FULL:
        raise WorkerFailure(
            f"The worker at {address} serves as many clients as it may.", "Try again later."
        )
    if answer != ACCEPTED:
        raise WorkerFailure(
            f"What listens at {address} is not a ProtoSAM worker.", "Check host and port."
        )


def hear_token(stream: SecureStream, wanted: str) -> bool:
    """Hear a token and say whether it is the right one; the listener's part.

    The time that this takes tells nothing of the token: digests are compared, all of both.

    Raises
    ------
    OSError
        None came.
    """
    start = stream.read_exactly(len(_TOKEN_MAGIC) + _TOKEN_LENGTH.size)
    (length,) = _TOKEN_LENGTH.unpack(start[len(_TOKEN_MAGIC) :])
    if not start.startswith(_TOKEN_MAGIC):
        return False
    said = hashlib.sha256(stream.read_exactly(length)).digest()
    return hmac.compare_digest(said, hashlib.sha256(wanted.encode("ascii")).digest())
