"""Brings weights to this machine: from a file, or from the network with consent.

Owns copying and downloading: into the user's folder, checked before the name appears there, so
that a reader never meets half a file. Nothing is downloaded unless the caller says that the
user agreed. Speaks no coordinates.
"""

from __future__ import annotations

import hashlib
import http.client
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from protosam import __version__
from protosam.errors import Cancelled, ModelUnavailable, StorageFailure, WeightsRefused
from protosam.models.cards import ModelCard
from protosam.models.tensors import read_tensors
from protosam.models.weights import (
    CHUNK_BYTES,
    WeightsStatus,
    expected_digest,
    file_digest,
    make_folder,
    trust_digest,
    user_folder,
    wrong_digest,
)
from protosam.storage import atomic_path, storage_failure

TIMEOUT_S = 30.0
"""Silence of a server after which a download counts as broken."""

Opener = Callable[[str], http.client.HTTPResponse]
"""Opens an address for reading; raises what `urllib.request.urlopen` raises."""

OnProgress = Callable[[int, "int | None"], None]
"""Called with the bytes that came so far and the bytes in all, if known."""


@dataclass(frozen=True)
class _Digests:
    sha256: str
    md5: str


class _Writer:
    """Writes a file and hashes what it writes."""

    def __init__(self, stream: BinaryIO, target: Path) -> None:
        self._stream = stream
        self._target = target
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False)
        self.size_bytes = 0

    def write(self, chunk: bytes) -> None:
        try:
            self._stream.write(chunk)
        except OSError as error:
            # Here, or it would be taken for a failure of the disk or network read from.
            raise storage_failure(self._target, error) from error
        self._sha256.update(chunk)
        self._md5.update(chunk)
        self.size_bytes += len(chunk)

    @property
    def digests(self) -> _Digests:
        return _Digests(self._sha256.hexdigest(), self._md5.hexdigest())


def import_weights(path: Path, card: ModelCard, *, folder: Path | None = None) -> WeightsStatus:
    """Copy a weights file that the user has into the user's folder.

    Parameters
    ----------
    path : Path
        The file.
    card : ModelCard
        The model whose file it is said to be.
    folder : Path, optional
        Where to; the user's own folder if None.

    Returns
    -------
    WeightsStatus
        Of the new file.

    Raises
    ------
    WeightsRefused
        When the file is missing, is another one than the card's, or holds more than tensors.
    StorageFailure
        When it cannot be written.

    Notes
    -----
    Where the makers publish no SHA-256, the one seen is recorded and wanted from then on.
    """
    digests = _Digests(file_digest(path), file_digest(path, "md5"))
    _check(card, str(path), digests, contents=path)
    target = _target(card, folder)
    with atomic_path(target) as part:
        with part.open("wb") as stream, _reading(path), path.open("rb") as source:
            writer = _Writer(stream, target)
            while chunk := source.read(CHUNK_BYTES):
                writer.write(chunk)
        if writer.digests != digests:
            raise WeightsRefused(f"{path} changed while it was copied.", "Import it again.")
        return _accepted(card, target, digests)


def fetch_weights(
    card: ModelCard,
    *,
    consent: bool,
    folder: Path | None = None,
    opener: Opener | None = None,
    on_progress: OnProgress | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> WeightsStatus:
    """Download a model's weights into the user's folder.

    Parameters
    ----------
    card : ModelCard
        The model.
    consent : bool
        Whether the user agreed to this download; nothing is opened otherwise.
    folder : Path, optional
        Where to; the user's own folder if None.
    opener : callable, optional
        Opens the address; `urllib.request` if None.
    on_progress : callable, optional
        Called after each chunk with the bytes so far and in all.
    should_stop : callable, optional
        Asked before each chunk.

    Returns
    -------
    WeightsStatus
        Of the new file.

    Raises
    ------
    ModelUnavailable
        Without consent or address, or when the server does not deliver.
    WeightsRefused
        When what came is not the card's file.
    StorageFailure
        When it cannot be written.
    Cancelled
        When `should_stop` said so; nothing is left behind.
    """
    url = _agreed_address(card, consent)
    target = _target(card, folder)
    with atomic_path(target) as part:
        with (
            part.open("wb") as stream,
            _network_errors(card, url),
            (opener or open_address)(url) as response,
        ):
            writer = _Writer(stream, target)
            size_bytes = _announced_size(response)
            _refuse_without_space(target, size_bytes)
            while chunk := response.read(CHUNK_BYTES):
                if should_stop is not None and should_stop():
                    raise Cancelled(f"The download of {card.name} was stopped.")
                writer.write(chunk)
                if on_progress is not None:
                    on_progress(writer.size_bytes, size_bytes)
        if size_bytes is not None and writer.size_bytes != size_bytes:
            raise ModelUnavailable(
                f"The download of {card.name} broke off after {writer.size_bytes} of "
                f"{size_bytes} bytes.",
                "Try again.",
            )
        digests = writer.digests
        _check(card, f"What {urlsplit(url).netloc} sent", digests, contents=part)
        return _accepted(card, target, digests)


def open_address(url: str) -> http.client.HTTPResponse:
    """Open an address with the standard library, as this package."""
    request = urllib.request.Request(url, headers={"User-Agent": f"protosam/{__version__}"})
    response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    return response


def _agreed_address(card: ModelCard, consent: bool) -> str:
    if card.url is None:
        raise ModelUnavailable(
            f"{card.name} has no address to download it from.",
            "It comes with the package: install that again.",
        )
    if not consent:
        size = f"{card.size_bytes / 1e6:.0f} MB" if card.size_bytes else "of unknown size"
        raise ModelUnavailable(
            f"The weights of {card.name} ({size}, licence {card.licence}) would come from "
            f"{urlsplit(card.url).netloc}; nothing is downloaded without your consent.",
            "Agree to the download, or import a file that you have.",
        )
    return card.url


def _check(card: ModelCard, what: str, digests: _Digests, *, contents: Path) -> None:
    """Compare with what is published; where that is no SHA-256, look into the file too."""
    expected = expected_digest(card)
    if expected is not None:
        if digests.sha256 != expected:
            raise wrong_digest(card, what, expected=expected, found=digests.sha256)
        return
    if card.md5 is not None and digests.md5 != card.md5:
        raise wrong_digest(card, what, expected=card.md5, found=digests.md5, algorithm="MD5")
    read_tensors(contents)


def _target(card: ModelCard, folder: Path | None) -> Path:
    where = user_folder() if folder is None else folder
    make_folder(where)
    return where / card.file


def _accepted(card: ModelCard, target: Path, digests: _Digests) -> WeightsStatus:
    if card.sha256 is None:
        trust_digest(card.file, digests.sha256)
    return WeightsStatus(card, target, "verified", digests.sha256)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WeightsRefused(
            f"{path} cannot be read: {error.strerror or error}.",
            "Check the disk that it lies on.",
        ) from error


@contextmanager
def _network_errors(card: ModelCard, url: str) -> Iterator[None]:
    host = urlsplit(url).netloc
    next_step = (
        "Check the connection and try again, or import a file that you have with "
        f"`protosam weights import {card.name} FILE`."
    )
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        raise ModelUnavailable(
            f"{host} answered {error.code} {error.reason} for {card.file}.", next_step
        ) from error
    except (http.client.HTTPException, OSError) as error:
        reason = getattr(error, "reason", error)
        raise ModelUnavailable(
            f"{card.file} could not be downloaded from {host}: {reason}.", next_step
        ) from error


def _announced_size(response: http.client.HTTPResponse) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isdigit() else None


def _refuse_without_space(target: Path, size_bytes: int | None) -> None:
    free = shutil.disk_usage(target.parent).free
    if size_bytes is not None and size_bytes > free:
        raise StorageFailure(
            f"{target.parent} has {free / 1e6:.0f} MB left, the weights need "
            f"{size_bytes / 1e6:.0f} MB.",
            "Free some space, or name another folder.",
        )
