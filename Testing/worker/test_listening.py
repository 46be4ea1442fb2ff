"""A worker that several clients share: real processes on loopback, and a certificate made here."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from protosam.errors import (
    BrokenFrame,
    Cancelled,
    InvalidInput,
    ModelUnavailable,
    OutOfMemory,
    UnreadableFile,
    WorkerDied,
    WorkerFailure,
)
from protosam.geometry import Volume
from protosam.itk_grid import set_image_affine
from protosam.metrics import dice
from protosam.models.cards import card_named
from protosam.models.weights import locate_weights
from protosam.phantom import make_phantom
from protosam.prompts import Point, PromptSet
from protosam.volume_io import read_volume
from protosam.wire import messages
from protosam.wire.client import WorkerClient
from protosam.wire.frames import FrameDecoder, encode
from protosam.wire.messages import parse_reply, request_frame
from protosam.wire.tls import (
    SecureStream,
    ServerAddress,
    client_context,
    host_and_port,
    read_token,
    server_address,
    show_token,
)

FAKE = Path(__file__).with_name("fake_listener.py")
LIMIT_S = 30.0
TOKEN = "a-token-of-some-length-0123456789"

pytestmark = pytest.mark.skipif(os.name != "posix", reason="ends processes by signals of POSIX")


def make_certificate(folder):
    """Certificate for 127.0.0.1 and its key, signed by itself."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "worker of a test")])
    now = datetime.datetime.now(datetime.timezone.utc)
    host = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([host]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    form = serialization.PrivateFormat.PKCS8
    (folder / "cert.pem").write_bytes(certificate.public_bytes(pem))
    (folder / "key.pem").write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()))


class Listening:
    """The process, what it logs, and ways to it."""

    def __init__(self, folder, *options, program=(str(FAKE),)):
        self.folder = folder
        self.process = subprocess.Popen(
            [
                *(sys.executable, *program, "--listen", "127.0.0.1:0"),
                *("--tls-cert", str(folder / "cert.pem"), "--tls-key", str(folder / "key.pem")),
                *("--token-file", str(folder / "token"), *options),
            ],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        self.lines = []
        threading.Thread(target=self._follow, daemon=True).start()
        found = self.wait_for(r"listening at port (\d+)")
        self.address = ServerAddress("127.0.0.1", int(found[1]), TOKEN, folder / "cert.pem")
        self.clients = []

    def _follow(self):
        with self.process.stderr as stream:
            self.lines.extend(line.rstrip() for line in iter(stream.readline, ""))

    def wait_for(self, pattern):
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end:
            for line in list(self.lines):
                if found := re.search(pattern, line):
                    return found
            time.sleep(0.01)
        raise AssertionError(f"{pattern!r} is not in the log: {self.lines}")

    def client(self, **changed):
        address = ServerAddress(**{**vars(self.address), **changed})
        self.clients.append(WorkerClient(address))
        return self.clients[-1]

    def stream(self):
        """A client with bare bytes, let in."""
        plain = socket.create_connection(("127.0.0.1", self.address.port), LIMIT_S)
        stream = SecureStream(plain, client_context(self.address.ca_file), "127.0.0.1")
        stream.shake_hands()
        show_token(stream, self.address)
        return stream

    def close(self):
        for client in self.clients:
            client.close()
        self.process.kill()
        self.process.wait(LIMIT_S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("listening")
    make_certificate(place)
    (place / "token").write_text(TOKEN + "\n")
    (place / "token").chmod(0o600)
    return place


@pytest.fixture
def listen(folder):
    """Makes listeners, and ends them."""
    made = []

    def make(*options):
        made.append(Listening(folder, *options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(scope="module")
def shared(folder):
    """One listener for those tests that leave it as it was."""
    one = Listening(folder, "--max-clients", "64")
    yield one
    one.close()


def test_two_clients_at_once_get_their_own_answers(shared, ask, a_volume):
    first, second = shared.client(), shared.client()
    for client in (first, second):
        client.open_volume(a_volume)
    waiting = [
        client.predict(ask("slow:0.1", target="same", generation=n))
        for n, client in enumerate((first, second), 1)
    ]
    answers = [one.wait(LIMIT_S) for one in waiting]

    assert [one.generation for one in answers] == [1, 2]
    assert all(one.volume_uid == a_volume.uid for one in answers)
    assert all(np.argwhere(one.mask()).tolist() == [[1, 2, 3]] for one in answers)
    assert first.state.ready.model == "fake"


def test_a_client_with_one_request_waits_for_one_job_of_a_client_with_many(shared, ask, a_volume):
    greedy, modest = shared.client(), shared.client()
    for client in (greedy, modest):
        client.open_volume(a_volume).wait(LIMIT_S)
    many = [greedy.predict(ask("slow:0.4")) for _ in range(6)]
    started = []
    many[0].on_progress(started.append)
    end = time.monotonic() + LIMIT_S
    while not started and time.monotonic() < end:
        greedy.drain(wait_s=0.01)
    modest.predict(ask()).wait(LIMIT_S)
    greedy.drain()

    assert sum(one.done for one in many) <= 3
    assert all(one.wait(LIMIT_S) for one in many)


def test_prewarming_of_one_client_makes_way_for_another(shared, ask, a_volume):
    idle, busy = shared.client(), shared.client()
    for client in (idle, busy):
        client.open_volume(a_volume).wait(LIMIT_S)
    warm = idle.prewarm(messages.Prewarm(a_volume.uid, (0, 0, 0), count=1000))
    idle.stats().wait(LIMIT_S)
    busy.predict(ask()).wait(LIMIT_S)

    assert warm.wait(LIMIT_S).yielded


def test_a_wrong_token_is_refused_with_a_sentence(shared):
    client = shared.client(token=TOKEN[:-1] + "x")

    with pytest.raises(WorkerFailure, match="refuses the token") as caught:
        client.stats().wait(LIMIT_S)
    assert TOKEN[:-1] not in str(caught.value) + "".join(client.log_tail())
    shared.wait_for("wrong token, sent away")
    assert not any(TOKEN[:10] in line for line in shared.lines)


def test_a_certificate_that_is_not_trusted_is_refused_by_the_client(shared):
    client = shared.client(ca_file=None)

    with pytest.raises(WorkerFailure, match="is not trusted") as caught:
        client.stats().wait(LIMIT_S)
    assert "--tls-ca" in caught.value.next_step


def test_a_certificate_of_another_host_is_refused_by_the_client(shared):
    with pytest.raises(WorkerFailure, match="is not trusted"):
        shared.client(host="localhost").stats().wait(LIMIT_S)


def test_who_speaks_no_tls_hears_nothing_and_harms_nobody(shared):
    with socket.create_connection(("127.0.0.1", shared.address.port), LIMIT_S) as plain:
        plain.sendall(b"PSAM" + bytes(100))
        said = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := plain.recv(1000):
                said += piece

    assert b"PSAM" not in said
    assert len(said) < 20  # an alert of TLS at most
    shared.wait_for("no TLS 1.3")
    assert shared.client().stats().wait(LIMIT_S).model == "fake"


def test_an_older_tls_is_refused(shared):
    context = ssl.create_default_context(cafile=str(shared.address.ca_file))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection(("127.0.0.1", shared.address.port), LIMIT_S) as plain,
        pytest.raises((ssl.SSLError, ConnectionResetError)),
    ):
        context.wrap_socket(plain, server_hostname="127.0.0.1")


def test_a_connection_that_is_cut_in_mid_frame_costs_nobody_else(shared, a_volume, ask):
    stream = shared.stream()
    frame = request_frame(1, messages.OpenVolume("cut", a_volume.voxels, a_volume.affine))
    whole = b"".join(encode(frame))
    stream.write(memoryview(whole[: len(whole) // 2]))
    stream.close()
    shared.wait_for("in mid-frame|the connection broke")
    client = shared.client()
    client.open_volume(a_volume)

    assert client.predict(ask()).wait(LIMIT_S).mask().any()


def test_damaged_bytes_end_the_connection_with_a_sentence(shared):
    stream = shared.stream()
    stream.write(memoryview(b"this is no frame, whatever it may be"))
    replies = said_until_the_end(stream)

    assert replies[0].KIND == "hello"
    assert replies[-1].error == "BrokenFrame"


def said_until_the_end(stream):
    decoder, replies = FrameDecoder(), []
    end = time.monotonic() + LIMIT_S
    while (count := stream.readinto(decoder.buffer())) != 0:
        assert time.monotonic() < end, "the connection does not end"
        frame = decoder.filled(count) if count else None
        if frame is not None:
            replies.append(parse_reply(frame))
    stream.close()
    return replies


def test_a_frame_that_is_too_large_is_refused_and_a_smaller_one_taken(listen, a_volume, ask):
    listening = listen("--max-request-gib", "0.001")
    client = listening.client()
    large = Volume(np.zeros((40, 256, 256), np.int16), np.eye(4))

    with pytest.raises(BrokenFrame, match="too large"):
        client.open_volume(large).wait(LIMIT_S)
    client.open_volume(a_volume)
    assert client.predict(ask()).wait(LIMIT_S).mask().any()


def test_a_volume_beyond_what_a_client_may_have_open_is_refused(listen, a_volume, ask):
    client = listen("--max-open-gib", "0.001").client()
    large = Volume(np.zeros((40, 256, 256), np.int16), np.eye(4))

    with pytest.raises(OutOfMemory, match="may have 1073742 open"):
        client.open_volume(large).wait(LIMIT_S)
    client.open_volume(a_volume)
    assert client.predict(ask()).wait(LIMIT_S).mask().any()


def test_more_clients_than_places_are_told_so(listen):
    listening = listen("--max-clients", "1")
    first = listening.client()
    first.stats().wait(LIMIT_S)
    with pytest.raises(WorkerFailure, match="as many clients as it may"):
        listening.client().stats().wait(LIMIT_S)
    first.close()
    listening.wait_for("connection 1: ended")

    assert listening.client().stats().wait(LIMIT_S).model == "fake"


def test_a_silent_client_is_let_go_and_comes_back_by_itself(listen, a_volume, ask, until):
    listening = listen("--idle-s", "0.5")
    client = listening.client()
    client.open_volume(a_volume)
    client.predict(ask()).wait(LIMIT_S)
    until(client, lambda: client.state.phase == "stopped")

    assert "silence" in client.state.text
    assert client.predict(ask()).wait(LIMIT_S).mask().any()


def test_what_runs_is_not_silence(listen, a_volume, ask):
    client = listen("--idle-s", "0.2").client()
    client.open_volume(a_volume)

    assert client.predict(ask("stuck:2")).wait(LIMIT_S).mask().any()


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(listen, a_volume, ask, until, name):
    listening = listen()
    client = listening.client()
    client.open_volume(a_volume)
    running = client.predict(ask("slow:30"))
    client.stats().wait(LIMIT_S)
    listening.process.send_signal(name)

    with pytest.raises((Cancelled, WorkerDied)):
        running.wait(LIMIT_S)
    assert listening.process.wait(LIMIT_S) == 0
    listening.wait_for("ended")
    until(client, lambda: client.state.phase == "stopped")
    with pytest.raises(WorkerDied, match="cannot be reached"):
        client.stats().wait(LIMIT_S)


def test_a_client_that_ends_the_worker_ends_its_own_connection_only(shared):
    first, second = shared.client(), shared.client()
    second.stats().wait(LIMIT_S)
    first.shutdown().wait(LIMIT_S)

    assert second.stats().wait(LIMIT_S).model == "fake"
    assert shared.process.poll() is None


def test_the_log_has_a_line_for_each_request_and_nothing_of_what_it_was_about(listen, a_volume):
    listening = listen()
    client = listening.client()
    uid = "Smith-John-1961-CT"
    client.open_volume(Volume(a_volume.voxels, a_volume.affine, uid)).wait(LIMIT_S)
    with pytest.raises(WorkerFailure):
        client.predict(asked(uid, "raise")).wait(LIMIT_S)
    client.predict(asked(uid, "")).wait(LIMIT_S)
    client.shutdown().wait(LIMIT_S)
    listening.wait_for("connection 1: ended")
    text = "\n".join(listening.lines)

    pattern = r"connection 1: (\w+), (\w+), \d+ bytes in, \d+ bytes out, \d+\.\d{3} s"
    assert re.findall(pattern, text) == [
        ("open_volume", "volume_opened"),
        ("predict", "failed"),
        ("predict", "result"),
        ("shutdown", "goodbye"),
    ]
    assert "Smith" not in text
    assert "secret detail" not in text
    assert "KeyError in " in text


def asked(uid, model):
    return messages.Predict(uid, PromptSet(points=(Point((1, 2, 3), True, "a"),)), model=model)


def test_a_volume_is_seen_by_the_client_that_opened_it_alone(shared, a_volume):
    owner = shared.client()
    owner.open_volume(Volume(a_volume.voxels, a_volume.affine, "mine")).wait(LIMIT_S)
    other = shared.stream()
    for part in encode(request_frame(1, asked("mine", ""))):
        other.write(part)
    for part in encode(request_frame(2, messages.Stats())):
        other.write(part)
    for part in encode(request_frame(3, messages.Shutdown())):
        other.write(part)
    replies = {one.KIND: one for one in said_until_the_end(other)}

    assert replies["failed"].error == messages.VOLUME_NOT_OPEN
    assert replies["stats_report"].volumes == ()


def test_a_model_that_is_missing_is_not_what_answers_next(shared, a_volume):
    client = shared.client()
    client.open_volume(a_volume)
    with pytest.raises(ModelUnavailable):
        client.load_model(messages.LoadModel("missing", "")).wait(LIMIT_S)

    assert client.predict(asked(a_volume.uid, "")).wait(LIMIT_S).mask().any()


def test_each_client_keeps_the_model_that_it_has_loaded(shared, a_volume):
    first, second = shared.client(), shared.client()
    first.load_model(messages.LoadModel("raise", "")).wait(LIMIT_S)
    for client in (first, second):
        client.open_volume(a_volume)

    assert second.predict(asked(a_volume.uid, "")).wait(LIMIT_S).mask().any()
    with pytest.raises(WorkerFailure, match="KeyError"):
        first.predict(asked(a_volume.uid, "")).wait(LIMIT_S)


@pytest.mark.parametrize("name", ["/etc/passwd", "../weights.pth", "~/x", "a\\b"])
def test_a_path_is_not_a_name_of_a_model(shared, name):
    with pytest.raises(InvalidInput, match="by their names"):
        shared.client().load_model(messages.LoadModel(name, "")).wait(LIMIT_S)
    with pytest.raises(InvalidInput, match="by their names"):
        shared.client().load_model(messages.LoadModel("fake", name)).wait(LIMIT_S)


def test_nobody_there_is_a_sentence(folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    client = WorkerClient(ServerAddress("127.0.0.1", port, TOKEN, folder / "cert.pem"))

    with pytest.raises(WorkerDied, match=f"127.0.0.1:{port} cannot be reached"):
        client.stats().wait(LIMIT_S)


@pytest.mark.parametrize("host", ["a..b", "x" * 300, "no such host"])
def test_what_is_no_host_is_a_sentence_at_once(folder, host):
    client = WorkerClient(ServerAddress(host, 7310, TOKEN, folder / "cert.pem"))

    with pytest.raises(WorkerDied, match="cannot be reached"):
        client.stats().wait(LIMIT_S)


@pytest.mark.parametrize("left_out", ["--tls-cert", "--tls-key", "--token-file"])
def test_it_does_not_listen_without_certificate_and_token(folder, left_out):
    options = {
        "--tls-cert": folder / "cert.pem",
        "--tls-key": folder / "key.pem",
        "--token-file": folder / "token",
    }
    del options[left_out]
    done = listen_for_once("--listen", "127.0.0.1:0", *sum(options.items(), ()))

    assert done.returncode == 2
    assert f"Give {left_out} FILE" in done.stderr


def test_a_key_of_another_certificate_is_refused(folder, tmp_path):
    make_certificate(tmp_path)
    done = listen_for_once(
        *("--listen", "127.0.0.1:0", "--token-file", folder / "token"),
        *("--tls-cert", folder / "cert.pem", "--tls-key", tmp_path / "key.pem"),
    )

    assert done.returncode == 2
    assert "cannot be used together" in done.stderr


def test_a_port_that_is_taken_is_a_sentence(shared, folder):
    done = listen_for_once(
        *("--listen", f"127.0.0.1:{shared.address.port}", "--token-file", folder / "token"),
        *("--tls-cert", folder / "cert.pem", "--tls-key", folder / "key.pem"),
    )

    assert done.returncode == 2
    assert "Nothing can listen" in done.stderr


def listen_for_once(*options):
    command = [sys.executable, str(FAKE), *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)


@pytest.mark.parametrize("text", ["", "host", "host:", ":80", "host:x", "host:70000", "::1:80"])
def test_what_is_no_host_and_port_is_refused(text):
    with pytest.raises(InvalidInput, match="no host and port"):
        host_and_port(text)


def test_hosts_and_ports_are_read_as_they_are_written():
    assert host_and_port("gpu.example:7310") == ("gpu.example", 7310)
    assert host_and_port("[::1]:7310") == ("::1", 7310)
    assert str(ServerAddress("::1", 7310, TOKEN)) == "[::1]:7310"
    assert TOKEN not in repr(ServerAddress("::1", 7310, TOKEN))


@pytest.mark.parametrize("text", ["", "short", "two words of a token", "tokén-of-some-length-123"])
def test_a_token_that_is_short_or_no_word_is_refused(tmp_path, text):
    (tmp_path / "token").write_text(text, "utf-8")
    with pytest.raises(InvalidInput, match="one word of at least 16"):
        read_token(tmp_path / "token")


def test_what_a_client_lacks_is_said_before_it_connects(tmp_path):
    with pytest.raises(InvalidInput, match="no token"):
        server_address("host:1", None, None)
    with pytest.raises(UnreadableFile, match="cannot be read"):
        server_address("host:1", tmp_path / "none", None)
    (tmp_path / "token").write_text(TOKEN)
    with pytest.raises(UnreadableFile, match="no file"):
        server_address("host:1", tmp_path / "token", tmp_path / "none")


@pytest.mark.slow
def test_the_command_line_gets_the_same_mask_from_a_shared_worker(folder, tmp_path):
    if locate_weights(card_named("protosam-tiny")) is None:
        pytest.skip("no weights of protosam-tiny")
    phantom = make_phantom()
    image = SimpleITK.GetImageFromArray(phantom.volume.voxels)
    set_image_affine(image, phantom.volume.affine)
    SimpleITK.WriteImage(image, str(tmp_path / "image.nii.gz"))
    place, _ = phantom.clicks[0]
    point = ",".join(map(str, place)) + ",+"
    listening = Listening(folder, "--threads", "1", program=("-m", "protosam", "worker"))
    try:
        far = segmented(
            *(tmp_path / "image.nii.gz", tmp_path / "far.nii.gz", point),
            *("--worker", str(listening.address), "--token-file", str(folder / "token")),
            *("--tls-ca", str(folder / "cert.pem")),
        )
        text = "\n".join(listening.lines)
    finally:
        listening.close()
    near = segmented(tmp_path / "image.nii.gz", tmp_path / "near.nii.gz", point)

    assert far.any()
    assert dice(far, near) > 0.99
    assert "predict, result" in text
    assert phantom.volume.uid not in text


def segmented(image, out, point, *options):
    command = [sys.executable, "-m", "protosam", "segment", str(image), "-o", str(out)]
    done = subprocess.run(
        [*command, "--point", point, *options],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return read_volume(out).voxels > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--token-file", "x"), "Give --worker HOST:PORT"),
        (("--worker", "nowhere"), "no host and port"),
        (("--worker", "here:1"), "There is no token"),
    ],
)
def test_a_command_with_half_of_an_address_is_refused(tmp_path, options, words):
    command = [sys.executable, "-m", "protosam", "segment", "x.nii.gz", "-o", "y.nii.gz", *options]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=100, cwd=tmp_path, check=False
    )

    assert done.returncode != 0
    assert words in " ".join(done.stderr.split())
