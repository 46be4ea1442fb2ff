"""A worker that listens: several clients over TLS, one engine.

Rules
-----
* Nobody is heard without the token. Who has none yet may not keep others out: they are counted
  apart, and have `tls.STALL_S` to say it.
* Every connection has a thread that reads and one that writes, so that a client which does not
  read, or stops in mid-frame, costs nobody but itself.
* What is beyond a limit ends its connection with a sentence, never the worker.
* An end that is asked for (a signal) cancels what runs, says so, and closes all connections.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from protosam.errors import BrokenFrame, InvalidInput, WorkerFailure
from protosam.wire import messages
from protosam.wire.frames import FrameDecoder
from protosam.wire.frames import Limits as FrameLimits
from protosam.wire.tls import (
    ACCEPTED,
    FULL,
    REFUSED,
    STALL_S,
    TICK_S,
    SecureStream,
    hear_token,
    host_and_port,
    read_token,
    server_context,
)
from protosam.worker.device import failure_of
from protosam.worker.engine import Engine
from protosam.worker.guests import Guest, GuestOutbox
from protosam.worker.mailing import Mailing
from protosam.worker.turns import Turns

GRACE_S = 2.0
"""How long what runs may take to stop when the worker is to end."""

LINGER_S = 5.0
"""How long a client that was sent away may go on talking: closing at once would take the sentence
that tells it why from its ears."""

STRANGERS = 16
"""Connections that may be without a token at one time."""

WRONG_TOKEN_S = 1.0
"""How long a wrong token waits for its answer: guessing is slow."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What clients may take."""

    connections: int = 8
    open_bytes: int = 2 << 30
    """Voxels that one of them may have open."""
    frame_bytes: int = 2 << 30
    """Arrays of one request."""
    idle_s: float = 3600.0
    """Silence after which a connection that awaits nothing is closed."""

    def __post_init__(self) -> None:
        if min(self.connections, self.open_bytes, self.frame_bytes) < 1 or not self.idle_s > 0:
            raise InvalidInput(f"{self} leaves nothing.", "Give limits above 0.")


@dataclass(frozen=True)
class _Client:
    talk: Guest
    stream: SecureStream
    mailing: Mailing


class Listener:
    """A port at which clients find one engine.

    Parameters
    ----------
    address : (str, int)
        Host and port to listen at; port 0 = a free one.
    files : (Path, Path)
        Certificate and key of this machine, in PEM format.
    token : str
        What lets a client in.
    limits : Limits, optional
    model : str
        What answers where a client names none.

    Raises
    ------
    InvalidInput
        Certificate and key are of no use.
    WorkerFailure
        The port is taken, or the address is not this machine's.
    """

    def __init__(
        self,
        address: tuple[str, int],
        files: tuple[Path, Path],
        token: str,
        *,
        limits: Limits | None = None,
        model: str = "",
    ) -> None:
        self._context = server_context(*files)
        self._token, self._model = token, model
        self._limits = limits or Limits()
        self._turns = Turns()
        self._engine: Engine | None = None
        self._changed = threading.Lock()
        self._clients: dict[int, _Client] = {}
        self._places = threading.Semaphore(self._limits.connections)
        self._strangers = threading.Semaphore(STRANGERS)
        self._numbers = itertools.count(1)
        self._ending = threading.Event()
        self._exit_code = 0
        self._socket = _bound(address)
        self.port: int = self._socket.getsockname()[1]

    def end(self) -> None:
        """Ask `serve` to end; from any thread, also from a handler of signals."""
        self._ending.set()

    def serve(self, build_engine: Callable[[Callable[[str], None]], Engine]) -> int:
        """Serve clients until `end`.

        Parameters
        ----------
        build_engine : callable
            Called on the thread that owns the device; gets a function to tell what is being done.

        Returns
        -------
        int
            Exit code: 0 = it was asked to end, 1 = no engine.
        """
        device = threading.Thread(target=self._work, args=(build_engine,), daemon=True)
        door = threading.Thread(target=self._open_door, daemon=True)
        device.start()
        door.start()
        self._ending.wait()
        self._turns.close()
        with self._changed:
            left = list(self._clients.values())
        end = time.monotonic() + GRACE_S
        for client in left:
            client.talk.give_up()
        for client in left:
            client.mailing.close(end - time.monotonic())
            client.stream.close()
        device.join(max(0.0, end - time.monotonic()))
        door.join(2 * TICK_S)
        _LOG.info("ended")
        return self._exit_code

    def _work(self, build_engine: Callable[[Callable[[str], None]], Engine]) -> None:
        try:
            engine = build_engine(lambda text: _LOG.info("%s", text))
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the log gets a sentence
            failed = failure_of(error, "start")
            _LOG.error("%s %s", failed.message, failed.next_step)
            self._exit_code = 1
            self._ending.set()
            return
        with self._changed:
            self._engine = engine
            for client in self._clients.values():
                client.talk.tell_ready(engine)
        stats = engine.stats()
        _LOG.info("ready: %s on %s", stats.model or "no model", stats.device or "no device")
        self._turns.serve(engine)

    def _open_door(self) -> None:
        self._socket.settimeout(TICK_S)
        while not self._ending.is_set():
            try:
                plain, peer = self._socket.accept()
            except TimeoutError:
                continue
            except OSError as error:  # out of descriptors, or a client that has gone already
                _LOG.warning("a connection was not taken: %s", error)
                time.sleep(TICK_S)
                continue
            if not self._strangers.acquire(blocking=False):
                plain.close()
                continue
            meet = threading.Thread(target=self._meet, args=(plain, str(peer[0])), daemon=True)
            meet.start()
        self._socket.close()

    def _meet(self, plain: socket.socket, peer: str) -> None:
        """Agree on keys and hear the token; whoever has it becomes a client."""
        number = next(self._numbers)
        stream: SecureStream | None = None
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stream = SecureStream(plain, self._context)
            stream.shake_hands()
            why = "" if hear_token(stream, self._token) else "wrong token"
            if why:
                self._ending.wait(WRONG_TOKEN_S)
                stream.write(memoryview(REFUSED))
        except OSError as error:
            why = _in_words(error)
        finally:
            self._strangers.release()
        if stream is not None and not why:
            why = self._let_in(number, stream, peer)
        if why:
            _LOG.warning("connection %d from %s: %s, sent away", number, peer, why)
            plain.close()

    def _let_in(self, number: int, stream: SecureStream, peer: str) -> str:
        """Serve a client that has the token; why not, if it cannot be."""
        if not self._places.acquire(blocking=False):
            with contextlib.suppress(OSError):
                stream.write(memoryview(FULL))
            return "no place left"
        try:
            stream.write(memoryview(ACCEPTED))
            _LOG.info("connection %d from %s: let in", number, peer)
            self._serve(number, stream)
        except OSError as error:
            return _in_words(error)
        finally:
            self._places.release()
        return ""

    def _serve(self, number: int, stream: SecureStream) -> None:
        mailing = Mailing(stream)
        outbox = GuestOutbox(mailing, number)
        limits = self._limits
        talk = Guest(
            outbox,
            self._turns,
            started_s=time.monotonic(),
            open_bytes=limits.open_bytes,
            model=self._model,
        )
        talk.greet()
        with self._changed:
            self._clients[number] = _Client(talk, stream, mailing)
            self._turns.join(talk)
            if self._engine is not None:
                talk.tell_ready(self._engine)
        why = self._hear(talk, stream)
        talk.give_up()
        self._turns.leave(talk)
        talk.say_goodbye()
        with self._changed:
            del self._clients[number]
        mailing.close(STALL_S)
        _LOG.info("connection %d: ended, %s", number, why)
        _let_go(stream)

    def _hear(self, talk: Guest, stream: SecureStream) -> str:
        """Hear a client until it ends or must; return which."""
        try:
            return self._hear_frames(talk, stream)
        except (BrokenFrame, IdleClient) as error:
            talk.outbox.send_last(0, messages.Failed.of(error))
            return "idle" if isinstance(error, IdleClient) else "a broken or too large frame"
        except (OSError, ValueError):
            return "the connection broke"  # a closed stream is a ValueError to some of its parts

    def _hear_frames(self, talk: Guest, stream: SecureStream) -> str:
        decoder = FrameDecoder(FrameLimits(payload_bytes=self._limits.frame_bytes))
        heard_s = time.monotonic()
        while not talk.goodbye_id and not self._ending.is_set():
            count = stream.readinto(decoder.buffer())
            if count is None:
                silent_s = time.monotonic() - heard_s
                self._check_silence(silent_s, inside=decoder.inside_frame, waits=len(talk.jobs) > 0)
                continue
            if not count:
                return "by the client" + (" in mid-frame" if decoder.inside_frame else "")
            heard_s = time.monotonic()
            frame = decoder.filled(count)
            if frame is not None:
                talk.hear(frame)
        return "as it was asked to"

    def _check_silence(self, silent_s: float, *, inside: bool, waits: bool) -> None:
        if inside and silent_s > STALL_S:
            raise BrokenFrame(
                f"A frame stopped in its middle for {STALL_S:.0f} s.", "Repeat the request."
            )
        if not inside and not waits and silent_s > self._limits.idle_s:
            raise IdleClient(
                f"The worker closed the connection after {self._limits.idle_s:.0f} s of silence.",
                "The next request connects again.",
            )


def listener_of(options: argparse.Namespace) -> Listener:
    """Make a listener from the options of the command.

    Raises
    ------
    InvalidInput
        A certificate, key or token is missing or of no use, or a limit leaves nothing.
    UnreadableFile
        The token file cannot be read.
    WorkerFailure
        The port is taken.
    """
    missing = [
        name for name in ("tls_cert", "tls_key", "token_file") if not getattr(options, name, "")
    ]
    if missing:
        wanted = ", ".join(f"--{name.replace('_', '-')} FILE" for name in missing)
        raise InvalidInput(
            "A worker listens with a certificate and a token only.", f"Give {wanted}."
        )
    limits = Limits(
        options.max_clients,
        round(options.max_open_gib * 2**30),
        round(options.max_request_gib * 2**30),
        options.idle_s,
    )
    files = (Path(options.tls_cert), Path(options.tls_key))
    token_file = Path(options.token_file)
    token = read_token(token_file)
    if os.name == "posix" and token_file.stat().st_mode & 0o077:
        _LOG.warning("others on this machine may read the token file; chmod 600 mends that")
    address = host_and_port(options.listen)
    return Listener(address, files, token, limits=limits, model=options.model)


class IdleClient(WorkerFailure):
    """A client has been silent for too long."""


def _bound(address: tuple[str, int]) -> socket.socket:
    host, port = address
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return socket.create_server((host, port), family=found[0][0], backlog=STRANGERS)
    except OSError as error:
        raise WorkerFailure(
            f"Nothing can listen at {host}, port {port}: {error.strerror or error}.",
            "Choose an address of this machine and a free port.",
        ) from error


def _let_go(stream: SecureStream) -> None:
    """Close a connection so that what was said last arrives."""
    stream.end_writing()
    end = time.monotonic() + LINGER_S
    spare = memoryview(bytearray(1 << 16))
    with contextlib.suppress(OSError, ValueError):
        while time.monotonic() < end and stream.readinto(spare) != 0:
            continue
    stream.close()


def _in_words(error: OSError) -> str:
    """Kind of a failed beginning; what the other end has sent is not repeated."""
    if isinstance(error, ssl.SSLError):
        return f"no TLS 1.3 ({error.reason or 'unknown reason'})"
    return "no token" if isinstance(error, ConnectionResetError | TimeoutError) else "broken off"
