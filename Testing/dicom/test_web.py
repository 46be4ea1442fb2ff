"""A PACS that is down, refuses, is slow or sends halves: retried or reported, nothing lost."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pydicom
import pytest
from dicom_tools import catalogue_of, digests
from phantom_series import Ids, Layout, write_series

from protosam.dicom.transport import Server
from protosam.dicom.web import PAGE, Pacs
from protosam.errors import InvalidInput, ServerFailure, StorageFailure, UnreadableFile

BOUNDARY = "phantom"


@dataclass
class Trouble:
    """What the server does instead of answering, to the first requests that match."""

    what: str = ""
    method: str = "GET"
    times: int = 0
    asked: list[str] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)

    def strikes(self, method: str, path: str) -> bool:
        if self.times < 1 or method != self.method or "instances/" not in path + "instances/":
            return False
        self.times -= 1
        return True


class PhantomPacs(ThreadingHTTPServer):
    """DICOMweb as far as it is needed, over a folder; with its troubles."""

    daemon_threads = True

    def __init__(self, files: list[Path]) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.files = {str(pydicom.dcmread(path).SOPInstanceUID): path for path in files}
        self.stored: dict[str, bytes] = {}
        self.trouble = Trouble()
        self.end = threading.Event()
        self.token = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/dicom-web"


class _Answers(BaseHTTPRequestHandler):
    server: PhantomPacs
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, content: bytes, kind: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def is_in_trouble(self, method: str) -> bool:
        trouble = self.server.trouble
        trouble.asked.append(f"{method} {self.path}")
        trouble.headers.append(self.headers.get("Authorization", ""))
        if self.server.token and self.headers.get("Authorization") != self.server.token:
            self.answer(b"", "text/plain", 401)
            return True
        if not trouble.strikes(method, self.path):
            return False
        what = trouble.what
        if what.isdigit():
            self.answer(b"patient Phantom", "text/plain", int(what))
        elif what == "hang up":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif what == "silence":
            self.server.end.wait(30)
        elif what == "page of a proxy":
            self.answer(b"<html>Please log in</html>", "text/html")
        elif what == "broken json":
            self.answer(b'[{"0020000E": {"vr"', "application/dicom+json")
        elif what == "drip":
            self.send_response(200)
            self.send_header("Content-Type", "application/dicom+json")
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            with suppress(OSError):  # the client hangs up
                while not self.server.end.wait(0.02):
                    self.wfile.write(b" ")
        return what in (
            *(str(n) for n in range(400, 600)),
            "hang up",
            "silence",
            "page of a proxy",
            "broken json",
            "drip",
        )

    def do_GET(self) -> None:
        half = self.server.trouble.what if self.server.trouble.times else ""
        if self.is_in_trouble("GET"):
            return
        path, _, query = self.path.partition("?")
        if path.endswith("/series"):
            self.answer_list("0020000E", "SeriesInstanceUID", "UI", query)
        elif path.endswith("/instances"):
            self.answer_list("00080018", "SOPInstanceUID", "UI", query)
        else:
            self.answer_instance(path.rsplit("/", 1)[1], half)

    def answer_list(self, tag: str, name: str, vr: str, query: str) -> None:
        found = []
        for uid, path in {**self.server.files}.items():
            header = pydicom.dcmread(path, stop_before_pixels=True)
            value = uid if name == "SOPInstanceUID" else header.SeriesInstanceUID
            found.append({tag: {"vr": vr, "Value": [value]}})
        found += [{tag: {"vr": vr, "Value": [uid]}} for uid in self.server.stored]
        self.answer(json.dumps(found).encode(), "application/dicom+json")

    def answer_instance(self, uid: str, half: str) -> None:
        if uid not in self.server.files:
            self.answer(b"", "text/plain", 404)
            return
        content = self.server.files[uid].read_bytes()
        if half == "half an instance":
            content = content[: len(content) - 60]
        if half == "another instance":
            other = next(one for one in self.server.files if one != uid)
            content = self.server.files[other].read_bytes()
        body = b"\r\n".join(
            [f"--{BOUNDARY}".encode(), b"Content-Type: application/dicom", b"", content, b""]
        )
        if half != "no closing mark":
            body += f"--{BOUNDARY}--".encode()
        kind = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
        if half == "half a body":
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
            return
        self.answer(body, kind)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.is_in_trouble("POST"):
            return
        start = body.index(b"\r\n\r\n") + 4
        content = body[start : body.rindex(b"\r\n--")]
        path = Path(self.server.folder) / "posted.dcm"
        path.write_bytes(content)
        uid = str(pydicom.dcmread(path).SOPInstanceUID)
        answer = {"00081199": {"vr": "SQ", "Value": []}}
        if self.server.trouble.what == "refuses the object":
            item = {"00081197": {"vr": "US", "Value": [0xA700]}}
            answer = {"00081198": {"vr": "SQ", "Value": [item]}}
        elif self.server.trouble.what != "loses the object":
            self.server.stored[uid] = content
        self.answer(json.dumps(answer).encode(), "application/dicom+json")


@pytest.fixture
def a_pacs(tmp_path: Path) -> Iterator[PhantomPacs]:
    files = write_series(tmp_path / "archive", Layout(slices=4), Ids.new())
    server = PhantomPacs(files)
    server.folder = tmp_path
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.end.set()
    server.shutdown()
    server.server_close()
    thread.join()


def uids(server: PhantomPacs) -> tuple[str, str]:
    header = pydicom.dcmread(next(iter(server.files.values())))
    return str(header.StudyInstanceUID), str(header.SeriesInstanceUID)


def patient(server: PhantomPacs, **more: object) -> Server:
    settings = {"attempts": 3, "pause_s": 0.01, "silence_s": 20.0, **more}
    return Server(server.url, **settings)


def test_a_series_comes_as_it_is_in_the_archive(a_pacs: PhantomPacs, tmp_path: Path) -> None:
    pacs = Pacs(patient(a_pacs))
    study, series = uids(a_pacs)
    assert [one.series_uid for one in pacs.series_of(study)] == [series]
    paths = pacs.fetch_series(study, series, tmp_path / "here")
    assert [path.stem for path in paths] == sorted(a_pacs.files)
    assert len(catalogue_of(tmp_path / "here").taken) == 1
    for path in paths:
        ours, theirs = pydicom.dcmread(path), pydicom.dcmread(a_pacs.files[path.stem])
        assert ours == theirs
        assert ours.file_meta.TransferSyntaxUID == theirs.file_meta.TransferSyntaxUID


@pytest.mark.parametrize(
    "what",
    [
        "500",
        "503",
        "429",
        "408",
        "hang up",
        "page of a proxy",
        "broken json",
        "half an instance",
        "half a body",
        "no closing mark",
        "another instance",
    ],
)
def test_what_may_pass_is_tried_again(a_pacs: PhantomPacs, tmp_path: Path, what: str) -> None:
    pacs = Pacs(patient(a_pacs))
    study, series = uids(a_pacs)
    a_pacs.trouble = Trouble(what, times=2)
    paths = pacs.fetch_series(study, series, tmp_path / "here")
    assert len(paths) == 4
    assert len(a_pacs.trouble.asked) >= 6
    for path in paths:
        assert pydicom.dcmread(path) == pydicom.dcmread(a_pacs.files[path.stem])


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("503", "3 times: it answers with status 503"),
        ("hang up", "3 times: it cannot be reached, or hung up"),
        ("broken json", "3 times: its answer is damaged"),
        ("page of a proxy", "3 times"),
    ],
)
def test_what_does_not_pass_is_reported_with_its_reason(
    a_pacs: PhantomPacs, what: str, reason: str
) -> None:
    a_pacs.trouble = Trouble(what, times=99)
    with pytest.raises(ServerFailure, match=reason) as caught:
        Pacs(patient(a_pacs)).series_of(uids(a_pacs)[0])
    assert "Phantom" not in str(caught.value)
    assert caught.value.next_step
    assert len(a_pacs.trouble.asked) == 3


@pytest.mark.parametrize(
    ("what", "step"), [("401", "credentials"), ("403", "access"), ("404", "UIDs")]
)
def test_what_will_not_pass_by_itself_is_asked_once(
    a_pacs: PhantomPacs, what: str, step: str
) -> None:
    a_pacs.trouble = Trouble(what, times=99)
    with pytest.raises(ServerFailure, match=f"{what}.*{step}"):
        Pacs(patient(a_pacs)).series_of(uids(a_pacs)[0])
    assert len(a_pacs.trouble.asked) == 1


def test_a_server_that_is_down_is_named(a_pacs: PhantomPacs) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    down = Server(f"http://127.0.0.1:{port}/dicom-web", attempts=2, pause_s=0.01)
    with pytest.raises(ServerFailure, match=rf"127\.0\.0\.1:{port} failed at listing series"):
        Pacs(down).series_of("1.2.3")


@pytest.mark.parametrize(
    ("what", "limits"),
    [("silence", {"silence_s": 0.2}), ("drip", {"whole_s": 0.3})],
)
def test_a_slow_server_is_given_up(
    a_pacs: PhantomPacs, what: str, limits: dict[str, float]
) -> None:
    a_pacs.trouble = Trouble(what, times=99)
    start = time.monotonic()
    with pytest.raises(ServerFailure, match="2 times: it does not answer in time"):
        Pacs(patient(a_pacs, attempts=2, **limits)).series_of(uids(a_pacs)[0])
    assert time.monotonic() - start < 15  # the server would go on for ever


def test_an_answer_without_end_is_cut_off(a_pacs: PhantomPacs) -> None:
    with pytest.raises(ServerFailure, match="more than 100 bytes"):
        Pacs(patient(a_pacs, answer_bytes=100)).series_of(uids(a_pacs)[0])


def test_a_fetch_that_broke_off_goes_on_where_it_stopped(
    a_pacs: PhantomPacs, tmp_path: Path
) -> None:
    study, series = uids(a_pacs)
    lost = sorted(a_pacs.files)[2]
    kept = a_pacs.files.pop(lost)
    folder = tmp_path / "here"
    pacs = Pacs(patient(a_pacs))
    a_pacs.stored[lost] = b""  # it is listed, and cannot be sent
    with pytest.raises(ServerFailure, match=f"instance {lost}"):
        pacs.fetch_series(study, series, folder)
    assert sorted(path.stem for path in folder.iterdir()) == sorted(a_pacs.files)[:2]
    a_pacs.files[lost] = kept
    a_pacs.trouble = Trouble()
    assert len(pacs.fetch_series(study, series, folder)) == 4
    fetched = [one for one in a_pacs.trouble.asked if "/instances/" in one]
    assert len(fetched) == 2


def test_a_folder_that_cannot_be_written_is_reported(
    a_pacs: PhantomPacs, a_full_disk: Path
) -> None:
    (a_full_disk / "fill").write_bytes(bytes(60 * 1024))
    with pytest.raises(StorageFailure, match="not written"):
        Pacs(patient(a_pacs)).fetch_series(*uids(a_pacs), a_full_disk / "series")
    for path in (a_full_disk / "series").iterdir():  # what had room is whole
        assert pydicom.dcmread(path) == pydicom.dcmread(a_pacs.files[path.stem])


def test_the_token_reaches_the_server_and_no_message(a_pacs: PhantomPacs) -> None:
    a_pacs.token = "Bearer s3cret"
    right = patient(a_pacs, token="s3cret")
    assert Pacs(right).series_of(uids(a_pacs)[0])
    assert "s3cret" not in repr(right)
    with pytest.raises(ServerFailure, match="401") as caught:
        Pacs(patient(a_pacs, token="wr0ng")).series_of(uids(a_pacs)[0])
    assert "wr0ng" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "more", "reason"),
    [
        ("ftp://host/x", {}, "no http"),
        ("host/dicom-web", {}, "no http"),
        ("https://user:pass@host/x", {}, "user name in it"),
        ("http://pacs.example/x", {"token": "s"}, "without encryption"),
        ("http://pacs.example/x", {"user": "u", "password": "p"}, "without encryption"),
        ("https://pacs.example/x", {"attempts": 0}, "none"),
    ],
)
def test_unsafe_addresses_are_refused(url: str, more: dict[str, object], reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        Server(url, **more)


@pytest.mark.parametrize("uid", ["", "../../etc/passwd", "1.2.", "1" * 70, "a.b"])
def test_uids_lead_nowhere_else(a_pacs: PhantomPacs, tmp_path: Path, uid: str) -> None:
    with pytest.raises(InvalidInput, match="not a UID"):
        Pacs(patient(a_pacs)).fetch_series(uid, "1.2", tmp_path)
    assert a_pacs.trouble.asked == []


def test_a_server_that_lists_senseless_uids_writes_nothing(
    a_pacs: PhantomPacs, tmp_path: Path
) -> None:
    a_pacs.stored["../../x"] = b""
    with pytest.raises(ServerFailure, match="damaged"):
        Pacs(patient(a_pacs)).fetch_series(*uids(a_pacs), tmp_path / "here")
    assert not (tmp_path / "here").exists()


def test_a_server_that_knows_no_pages_is_no_trap(
    a_pacs: PhantomPacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("protosam.dicom.web.PAGE", 4)
    assert PAGE > 4
    assert len(Pacs(patient(a_pacs)).instances_of(*uids(a_pacs))) == 4
    assert len(a_pacs.trouble.asked) == 2  # the second page brought nothing new


def a_result(tmp_path: Path) -> list[Path]:
    return write_series(tmp_path / "results", Layout(slices=2))


@pytest.mark.parametrize("what", ["", "503", "hang up"])
def test_results_are_stored_and_listed(a_pacs: PhantomPacs, tmp_path: Path, what: str) -> None:
    paths = a_result(tmp_path)
    before = digests(paths)
    a_pacs.trouble = Trouble(what, "POST", times=2 if what else 0)
    stored = Pacs(patient(a_pacs)).store(paths)
    assert stored == tuple(str(pydicom.dcmread(path).SOPInstanceUID) for path in paths)
    assert set(stored) == set(a_pacs.stored)
    assert digests(paths) == before


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("refuses the object", "refused instance .*0xa700"),
        ("loses the object", "does not list it"),
        ("401", "credentials"),
        ("409", "refuses to store"),
        ("503", "3 times"),
    ],
)
def test_results_that_did_not_arrive_are_reported_and_kept(
    a_pacs: PhantomPacs, tmp_path: Path, what: str, reason: str
) -> None:
    paths = a_result(tmp_path)
    before = digests(paths)
    a_pacs.trouble = Trouble(what, "POST", times=99 if what.isdigit() else 0)
    with pytest.raises(ServerFailure, match=reason) as caught:
        Pacs(patient(a_pacs)).store(paths)
    assert "0 of 2 files are stored" in str(caught.value)
    assert digests(paths) == before


def test_nothing_is_sent_if_one_of_the_files_is_none(a_pacs: PhantomPacs, tmp_path: Path) -> None:
    (tmp_path / "no").write_text("no")
    with pytest.raises(UnreadableFile, match="no is not a DICOM file"):
        Pacs(patient(a_pacs)).store([*a_result(tmp_path), tmp_path / "no"])
    assert a_pacs.trouble.asked == []


def test_the_phantom_server_counts_its_troubles() -> None:
    trouble = Trouble("503", times=1)
    strikes: Callable[[], bool] = lambda: trouble.strikes("GET", "/x")  # noqa: E731
    assert [strikes(), strikes()] == [True, False]
