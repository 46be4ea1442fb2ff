"""A real PACS: Orthanc with its DICOMweb plug-in, started here on a free port of loopback."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import requests
from dicom_tools import masks_by_source, only_series
from phantom_series import PLANES, Ids, Layout, same_values, write_series
from pydicom.sr.codedict import codes

from protosam.dicom.results import save_segments
from protosam.dicom.segmentations import read_segments
from protosam.dicom.transport import Server
from protosam.dicom.web import Pacs
from protosam.dicom.write import Algorithm
from protosam.errors import ServerFailure
from protosam.seg_nrrd import Segment

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
USER, PASSWORD = "phantom", "tr1al"


@dataclass
class Orthanc:
    """One Orthanc with an empty database of its own."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/dicom-web"

    def server(self, **more: object) -> Server:
        settings = {"user": USER, "password": PASSWORD, "attempts": 3, "pause_s": 0.2, **more}
        return Server(self.url, **settings)

    def start(self) -> None:
        program = shutil.which("Orthanc")
        settings = {
            "StorageDirectory": str(self.folder / "db"),
            "IndexDirectory": str(self.folder / "db"),
            "HttpPort": self.port,
            "DicomServerEnabled": False,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": True,
            "RegisteredUsers": {USER: PASSWORD},
            "Plugins": [str(PLUGIN)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        path = self.folder / "orthanc.json"
        path.write_text(json.dumps(settings))
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([str(program), str(path)], stdout=log, stderr=log)
        end = time.monotonic() + 60
        while not self.is_up():
            if time.monotonic() > end or self.process.poll() is not None:
                raise TimeoutError((self.folder / "log").read_text())
            time.sleep(0.1)

    def is_up(self) -> bool:
        try:
            requests.get(f"{self.url}/studies", auth=(USER, PASSWORD), timeout=5)
        except requests.ConnectionError:
            return False
        return True

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(30)
            self.process = None


@pytest.fixture
def an_orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    if shutil.which("Orthanc") is None or not PLUGIN.exists():
        pytest.skip("Orthanc is missing: scripts/setup_dicom_tools.sh installs it")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    orthanc = Orthanc(tmp_path_factory.mktemp("orthanc"), port)
    try:
        orthanc.start()
        yield orthanc
    finally:
        orthanc.stop()


def test_a_study_goes_there_and_its_segmentation_comes_back(
    an_orthanc: Orthanc,
    tmp_path: Path,
    an_algorithm: Algorithm,
    two_organs: Callable[..., list[Segment]],
) -> None:
    pacs = Pacs(an_orthanc.server())
    ids = Ids.new()
    files = write_series(tmp_path / "study", Layout(PLANES["oblique"]), ids)
    assert len(pacs.store(files)) == 6

    (listed,) = pacs.series_of(ids.study)
    assert (listed.series_uid, listed.modality, listed.instances) == (ids.series, "CT", 6)
    pacs.fetch_series(ids.study, listed.series_uid, tmp_path / "fetched")
    source = only_series(tmp_path / "fetched")
    assert same_values(source.volume.voxels, source.volume.affine) < 0.3

    segments = two_organs(source.volume.shape_kji)
    result = save_segments(tmp_path / "seg.dcm", segments, source, an_algorithm)
    (stored,) = pacs.store([result])

    (found,) = pacs.series_of(ids.study, "SEG")
    (back,) = pacs.fetch_series(ids.study, found.series_uid, tmp_path / "back")
    assert back.stem == stored
    seg = hd.seg.segread(back)
    kinds = [seg.get_segment_description(n).segmented_property_type for n in (1, 2)]
    assert kinds == [codes.SCT.Kidney, codes.SCT.Liver]
    for number, one in enumerate(segments, 1):
        for k, frame in enumerate(source.frames):
            mask = masks_by_source(back).get((number, frame.instance_uid, 1))
            np.testing.assert_array_equal(one.mask[k], False if mask is None else mask)
    for ours, theirs in zip(segments, read_segments(back, source).segments, strict=True):
        np.testing.assert_array_equal(ours.mask, theirs.mask)


def test_compressed_slices_stay_compressed_on_the_way(an_orthanc: Orthanc, tmp_path: Path) -> None:
    pacs = Pacs(an_orthanc.server())
    ids = Ids.new()
    files = write_series(
        tmp_path / "study",
        Layout(slices=3),
        ids,
        change=lambda _, dataset: dataset.compress(pydicom.uid.RLELossless),
    )
    pacs.store(files)
    paths = pacs.fetch_series(ids.study, ids.series, tmp_path / "fetched")
    syntaxes = {pydicom.dcmread(path).file_meta.TransferSyntaxUID for path in paths}
    assert syntaxes == {pydicom.uid.RLELossless}
    source = only_series(tmp_path / "fetched")
    assert same_values(source.volume.voxels, source.volume.affine) < 0.3


def test_a_wrong_password_is_reported_at_once(an_orthanc: Orthanc, tmp_path: Path) -> None:
    files = write_series(tmp_path / "study", Layout(slices=1))
    wrong = Pacs(an_orthanc.server(password="wr0ng"))
    with pytest.raises(ServerFailure, match="401") as caught:
        wrong.store(files)
    assert "wr0ng" not in str(caught.value)
    assert files[0].exists()


def test_what_is_not_there_is_said(an_orthanc: Orthanc, tmp_path: Path) -> None:
    with pytest.raises(ServerFailure, match="no instance of series"):
        Pacs(an_orthanc.server()).fetch_series("1.2.3", "1.2.3.4", tmp_path / "none")


def test_a_server_that_went_down_is_named_and_nothing_is_lost(
    an_orthanc: Orthanc, tmp_path: Path
) -> None:
    pacs = Pacs(an_orthanc.server())
    ids = Ids.new()
    files = write_series(tmp_path / "study", Layout(slices=3), ids)
    pacs.store(files[:1])
    an_orthanc.stop()
    with pytest.raises(ServerFailure, match=f"127.0.0.1:{an_orthanc.port} failed") as caught:
        pacs.store(files[1:])
    assert "0 of 2 files are stored" in str(caught.value)
    an_orthanc.start()
    pacs.store(files)
    assert len(pacs.instances_of(ids.study, ids.series)) == 3
