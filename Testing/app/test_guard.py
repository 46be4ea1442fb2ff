"""Who may speak to the server: requests without the token, from other sites, to other names."""

from __future__ import annotations

import http.client
import io
import os
import tempfile
import zipfile
from pathlib import Path

import psutil
import pytest

from protosam.errors import InvalidInput, UnreadableFile
from protosam_app.uploads import Inbox, Limits, safe_name


def ask(served, path="/index.html", *, method="GET", host=None, origin=None, cookie=True, **more):
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
    headers = {"Host": host or f"127.0.0.1:{served.port}", **more.get("headers", {})}
    if origin is not None:
        headers["Origin"] = origin
    if cookie:
        headers["Cookie"] = f"protosam_{served.port}={served.token}"
    connection.request(method, path, more.get("body"), headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body.decode(errors="replace"), answer.headers


WEBSOCKET = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


def test_the_server_listens_on_the_loopback_address_alone(served):
    listening = [
        one.laddr
        for one in psutil.Process(served.process.pid).net_connections("inet")
        if one.status == psutil.CONN_LISTEN
    ]
    assert {(one.ip, one.port) for one in listening} == {("127.0.0.1", served.port)}


def test_the_token_in_the_address_becomes_a_cookie_that_scripts_cannot_read(served):
    status, _, headers = ask(served, f"/?token={served.token}", cookie=False)
    assert status == 302
    assert headers["Location"] == "/"
    cookie = headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    status, body, headers = ask(served)
    assert status == 200
    assert "<html" in body
    assert "default-src 'self'" in headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    "path", ["/", "/index.html", "/__protosam/page.js", "/download/seg", "/assets/x", "/ws"]
)
def test_requests_without_the_token_are_refused(served, path):
    assert ask(served, path, cookie=False)[0] == 403
    wrong = {"Cookie": f"protosam_{served.port}=wrong"}
    assert ask(served, path, cookie=False, headers=wrong)[0] == 403
    assert ask(served, f"{path}?token=wrong", cookie=True)[0] == 403


def test_a_websocket_without_the_token_or_from_another_site_is_refused(served):
    own = f"http://127.0.0.1:{served.port}"
    assert ask(served, "/ws", cookie=False, origin=own, headers=WEBSOCKET)[0] == 403
    assert ask(served, "/ws", origin="http://evil.example", headers=WEBSOCKET)[0] == 403


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1", "0.0.0.0"])
def test_requests_to_another_name_are_refused(served, host):
    status, text, _ = ask(served, host=host)
    assert status == 403
    assert "own address" in text


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1", ""])
def test_requests_of_pages_of_other_sites_are_refused(served, origin):
    assert ask(served, origin=origin)[0] == 403
    assert ask(served, "/upload", method="POST", origin=origin, body=b"x")[0] == 403


def test_the_pages_own_origin_is_let_in(served):
    for name in ("127.0.0.1", "localhost"):
        origin = f"http://{name}:{served.port}"
        assert ask(served, origin=origin, host=origin.removeprefix("http://"))[0] == 200


def test_files_beside_the_page_cannot_be_fetched(served):
    for path in ("/__protosam/../guard.py", "/__protosam/%2e%2e/guard.py", "/download/../seg"):
        assert ask(served, path)[0] in (403, 404)


def test_the_programs_output_holds_the_token_once_and_no_log_of_it(served):
    assert served.token not in served.log.read_text()


def test_the_folder_of_uploads_is_private_and_gone_after_the_end(serve):
    one = serve("--port", "0")
    folders = list(one.temporary.glob("protosam-*"))
    assert len(folders) == 1
    assert folders[0].stat().st_mode & 0o077 == 0
    worker = one.worker()
    assert one.stop() == 0
    assert list(one.temporary.glob("protosam-*")) == []
    psutil.wait_procs([worker], timeout=5)
    assert not worker.is_running()


async def parts(*chunks):
    for chunk in chunks:
        yield chunk


@pytest.fixture
def inbox():
    made = Inbox(Limits(upload_bytes=100, unpacked_bytes=1000, files=5))
    yield made
    made.close()
    assert not made.path.exists()


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "..\\..\\x.nii",
        "/root/.ssh/id",
        "a/../../b.nii",
        "...",
        "",
        "\0.nii",
        "x" * 500 + ".nii.gz",
        "CON",
        "  .nii",
    ],
)
def test_names_from_outside_stay_in_the_folder(name, tmp_path):
    kept = safe_name(name)
    assert kept not in ("", ".", "..")
    assert len(kept) <= 120
    assert (tmp_path / kept).resolve().parent == tmp_path.resolve()
    (tmp_path / kept).write_bytes(b"")


def test_an_upload_that_is_too_large_is_stopped_while_it_arrives(inbox, run_async):
    folder = inbox.new_folder()
    taken = run_async(inbox.save(folder, "a.nii", parts(b"x" * 60)))
    assert taken == 60
    with pytest.raises(InvalidInput, match="more than"):
        run_async(inbox.save(folder, "b.nii", parts(b"x" * 30, b"x" * 30), taken_bytes=taken))


def archive_of(path, entries):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


def test_an_archive_is_unpacked_without_leaving_the_folder(inbox, tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    entries = [("../../out.txt", b"1"), ("/abs.txt", b"2"), ("a/b.txt", b"3"), ("c/b.txt", b"4")]
    folder = inbox.unpack(archive_of(tmp_path / "a.zip", [*entries, (link, b"/etc/passwd")]))
    found = sorted(one.name for one in folder.iterdir())
    assert found == ["2_b.txt", "abs.txt", "b.txt", "out.txt"]
    assert all(one.is_file() and not one.is_symlink() for one in folder.iterdir())
    assert not (tmp_path / "out.txt").exists()
    assert not Path("/abs.txt").exists()


def test_an_archive_that_swells_is_stopped(inbox, tmp_path):
    with pytest.raises(InvalidInput, match="more than"):
        inbox.unpack(archive_of(tmp_path / "a.zip", [("zeros", b"\0" * 5000)]))
    with pytest.raises(InvalidInput, match="5 files"):
        inbox.unpack(archive_of(tmp_path / "b.zip", [(f"{n}", b"") for n in range(6)]))


def test_a_file_that_is_no_archive_is_refused_by_a_sentence(inbox, tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK\3\4 nothing")
    with pytest.raises(UnreadableFile, match="damaged"):
        inbox.unpack(tmp_path / "a.zip")
    whole = io.BytesIO()
    archive_of(whole, [("a", os.urandom(900))])
    torn = bytearray(whole.getvalue())
    torn[200:260] = b"\0" * 60
    (tmp_path / "b.zip").write_bytes(torn)
    with pytest.raises(UnreadableFile, match="damaged"):
        inbox.unpack(tmp_path / "b.zip")


def test_the_inbox_is_in_the_folder_for_temporary_files(inbox):
    assert inbox.path.parent == Path(tempfile.gettempdir())
