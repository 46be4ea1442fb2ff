"""Weights that come to this machine: from a file, or over the network with consent."""

from __future__ import annotations

import dataclasses
import hashlib
import http.client
import http.server
import io
import os
import shutil
import socket
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from protosam.errors import Cancelled, ModelUnavailable, StorageFailure, WeightsRefused
from protosam.models import install, weights
from protosam.models.cards import MODEL_CARDS, ModelCard
from protosam.models.install import fetch_weights, import_weights, open_address
from protosam.models.weights import find_weights, trusted_digests, verify_weights


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home" / "weights"
    for module in (weights, install):
        monkeypatch.setattr(module, "user_folder", lambda: folder)
    monkeypatch.delenv("PROTOSAM_WEIGHTS", raising=False)
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "downloads" / "weights of mine.pth"
    path.parent.mkdir()
    torch.save({"w": torch.arange(500_000.0)}, path)
    return path


def a_card(path: Path, **changes: object) -> ModelCard:
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    base = dataclasses.replace(MODEL_CARDS["sam_vit_b"], name="mine", file="mine.pth")
    return dataclasses.replace(base, **{"sha256": sha256, "size_bytes": 2_000_000, **changes})


def without_digest(path: Path, md5: str | None = None) -> ModelCard:
    found = hashlib.md5(path.read_bytes()).hexdigest()
    return a_card(path, sha256=None, md5=md5 or found)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


class Server(http.server.BaseHTTPRequestHandler):
    """Answers by the path: whole, torn, page, missing."""

    content = b""

    def do_GET(self) -> None:
        if self.path == "/missing":
            self.send_error(404)
            return
        body = b"<html>Sign in</html>" if self.path == "/page" else self.content
        self.send_response(200)
        if self.path != "/unsized":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.path == "/torn" else body)

    def log_message(self, *_: object) -> None:
        """Keeps the test's output quiet."""


@pytest.fixture
def server(source: Path) -> Iterator[http.server.ThreadingHTTPServer]:
    handler = type("Handler", (Server,), {"content": source.read_bytes()})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


class Opener:
    """Opens the loopback server in place of the card's address."""

    def __init__(self, server: http.server.ThreadingHTTPServer, path: str = "/whole") -> None:
        self.address = f"http://127.0.0.1:{server.server_address[1]}{path}"
        self.asked: list[str] = []

    def __call__(self, url: str) -> http.client.HTTPResponse:
        self.asked.append(url)
        return open_address(self.address)


# -- importing ----------------------------------------------------------------------------------


def test_an_imported_file_is_found_and_verified_by_name(source: Path, home: Path) -> None:
    card = a_card(source)

    status = import_weights(source, card)

    assert status.path == home / "mine.pth" == find_weights(card)
    assert (status.state, status.sha256) == ("verified", card.sha256)
    assert verify_weights(card, find_weights(card)) == card.sha256
    assert names_in(home) == ["mine.pth"]
    assert trusted_digests() == {}


def test_an_import_replaces_what_was_there(source: Path, home: Path) -> None:
    home.mkdir(parents=True)
    (home / "mine.pth").write_bytes(b"an old one")

    import_weights(source, a_card(source))

    assert (home / "mine.pth").read_bytes() == source.read_bytes()


def test_a_file_can_be_imported_onto_itself(source: Path, home: Path) -> None:
    card = a_card(source)
    import_weights(source, card)

    import_weights(home / "mine.pth", card)

    assert (home / "mine.pth").read_bytes() == source.read_bytes()


def test_importing_the_wrong_file_is_refused_and_leaves_nothing(source: Path, home: Path) -> None:
    with pytest.raises(WeightsRefused, match="is not the file of mine"):
        import_weights(source, a_card(source, sha256="a" * 64))

    assert names_in(home) == []


def test_importing_a_missing_file_is_refused(tmp_path: Path, source: Path) -> None:
    with pytest.raises(WeightsRefused, match="cannot be read"):
        import_weights(tmp_path / "none.pth", a_card(source))


def test_where_only_an_md5_is_published_the_sha256_seen_is_recorded(
    source: Path, home: Path
) -> None:
    card = without_digest(source)

    status = import_weights(source, card)

    assert trusted_digests() == {"mine.pth": status.sha256}
    assert verify_weights(card, home / "mine.pth") == status.sha256


def test_a_file_with_another_md5_is_refused(source: Path, home: Path) -> None:
    with pytest.raises(WeightsRefused, match="its MD5 is"):
        import_weights(source, without_digest(source, md5="0" * 32))

    assert names_in(home) == []


def test_a_file_without_a_published_digest_is_looked_into(tmp_path: Path, home: Path) -> None:
    path = tmp_path / "page.pth"
    path.write_text("<html>Sign in</html>")

    with pytest.raises(WeightsRefused, match="is a web page"):
        import_weights(path, without_digest(path))

    assert names_in(home) == []


def test_a_file_that_changes_while_it_is_copied_is_refused(
    source: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = a_card(source)
    right = {"sha256": card.sha256, "md5": "0" * 32}
    monkeypatch.setattr(install, "file_digest", lambda _, kind="sha256": right[kind])

    with pytest.raises(WeightsRefused, match="changed while it was copied"):
        import_weights(source, card)

    assert names_in(home) == []


def test_a_full_disk_leaves_nothing_behind(
    source: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFailure, match="No space left on device"):
        import_weights(source, a_card(source))

    assert names_in(home) == []


def test_a_folder_that_is_a_file_is_told(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(StorageFailure, match="cannot be made"):
        import_weights(source, a_card(source), folder=tmp_path / "file")


# -- downloading --------------------------------------------------------------------------------


def test_nothing_is_opened_without_consent(
    source: Path, server: http.server.ThreadingHTTPServer
) -> None:
    opener = Opener(server)

    with pytest.raises(ModelUnavailable, match=r"2 MB, licence Apache-2\.0") as caught:
        fetch_weights(a_card(source), consent=False, opener=opener)

    assert "dl.fbaipublicfiles.com" in caught.value.message
    assert opener.asked == []


def test_a_download_is_checked_and_put_in_place_with_progress(
    source: Path, home: Path, server: http.server.ThreadingHTTPServer
) -> None:
    card, opener = a_card(source), Opener(server)
    seen: list[tuple[int, int | None]] = []

    status = fetch_weights(
        card, consent=True, opener=opener, on_progress=lambda done, all_: seen.append((done, all_))
    )

    size_bytes = source.stat().st_size
    assert opener.asked == [card.url]
    assert status.path == home / "mine.pth"
    assert (home / "mine.pth").read_bytes() == source.read_bytes()
    assert seen[-1] == (size_bytes, size_bytes)
    assert len(seen) > 1
    assert names_in(home) == ["mine.pth"]


def test_a_download_of_unannounced_size_works(
    source: Path, server: http.server.ThreadingHTTPServer
) -> None:
    status = fetch_weights(a_card(source), consent=True, opener=Opener(server, "/unsized"))

    assert status.state == "verified"


def test_a_download_with_only_an_md5_published_records_the_sha256(
    source: Path, server: http.server.ThreadingHTTPServer
) -> None:
    status = fetch_weights(without_digest(source), consent=True, opener=Opener(server))

    assert trusted_digests() == {"mine.pth": status.sha256}


@pytest.mark.parametrize(
    ("path", "error", "words"),
    [
        ("/missing", ModelUnavailable, "answered 404 Not Found"),
        ("/torn", ModelUnavailable, "broke off after|could not be downloaded"),
        ("/page", WeightsRefused, "What dl.fbaipublicfiles.com sent is not the file of mine"),
    ],
)
def test_a_server_that_does_not_deliver_leaves_nothing_behind(
    source: Path,
    home: Path,
    server: http.server.ThreadingHTTPServer,
    path: str,
    error: type[Exception],
    words: str,
) -> None:
    with pytest.raises(error, match=words):
        fetch_weights(a_card(source), consent=True, opener=Opener(server, path))

    assert names_in(home) == []


def test_a_server_that_cannot_be_reached_is_told(source: Path, home: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]

        with pytest.raises(ModelUnavailable, match="could not be downloaded from") as caught:
            fetch_weights(
                a_card(source),
                consent=True,
                opener=lambda _: open_address(f"http://127.0.0.1:{port}/"),
            )

    assert "protosam weights import mine FILE" in caught.value.next_step
    assert names_in(home) == []


def test_the_cards_own_address_is_opened_by_default(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[urllib.request.Request] = []

    def refuse(request: urllib.request.Request, timeout: float) -> None:
        asked.append(request)
        raise TimeoutError(f"no answer in {timeout:.0f} s")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(ModelUnavailable, match="no answer in 30 s"):
        fetch_weights(a_card(source), consent=True)

    assert asked[0].full_url == a_card(source).url
    assert asked[0].get_header("User-agent", "").startswith("protosam/")


def test_a_download_can_be_stopped(
    source: Path, home: Path, server: http.server.ThreadingHTTPServer
) -> None:
    with pytest.raises(Cancelled, match="was stopped"):
        fetch_weights(a_card(source), consent=True, opener=Opener(server), should_stop=lambda: True)

    assert names_in(home) == []


def test_a_download_that_does_not_fit_is_not_begun(
    source: Path,
    home: Path,
    server: http.server.ThreadingHTTPServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usage = shutil.disk_usage(source.parent)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)

    with pytest.raises(StorageFailure, match="MB left, the weights need 2 MB"):
        fetch_weights(a_card(source), consent=True, opener=Opener(server))

    assert names_in(home) == []


def test_a_disk_that_fills_up_during_a_download_is_not_blamed_on_the_server(
    source: Path,
    home: Path,
    server: http.server.ThreadingHTTPServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Full(io.BytesIO):
        def write(self, _: object) -> int:
            raise OSError(28, "No space left on device")

    truly_open = Path.open
    monkeypatch.setattr(
        Path, "open", lambda path, mode="r": Full() if mode == "wb" else truly_open(path, mode)
    )

    with pytest.raises(StorageFailure, match=r"mine\.pth was not written: No space left on device"):
        fetch_weights(a_card(source), consent=True, opener=Opener(server))

    assert names_in(home) == []


def test_a_built_in_model_has_nothing_to_download(source: Path) -> None:
    with pytest.raises(ModelUnavailable, match="no address"):
        fetch_weights(a_card(source, url=None), consent=True)
