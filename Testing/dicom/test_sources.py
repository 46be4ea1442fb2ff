"""Folders, archives and DICOMDIRs: what is found in them, and what is not let in."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pydicom
import pytest
from dicom_tools import catalogue_of
from hypothesis import given
from hypothesis import strategies as st
from phantom_series import Ids, Layout, write_series
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MediaStorageDirectoryStorage, generate_uid

from protosam.dicom.find import find_series
from protosam.dicom.quiet import quiet_headers
from protosam.dicom.sources import Limits, files_of
from protosam.errors import InvalidInput, UnreadableFile


def packed(folder: Path, target: Path, kind: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(target, "w", kind) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder))
    return target


def test_a_folder_is_walked_to_its_depth(tmp_path: Path) -> None:
    ids = Ids.new()
    write_series(tmp_path / "a" / "b", ids=ids)
    write_series(tmp_path / "a" / "c", ids=ids.other_series())
    assert len(catalogue_of(tmp_path).taken) == 2


def test_an_archive_is_read_and_leaves_nothing_behind(tmp_path: Path) -> None:
    write_series(tmp_path / "series")
    with files_of(packed(tmp_path / "series", tmp_path / "series.zip")) as files:
        assert len(find_series(files).taken) == 1
        folder = files.paths[0].parent
    assert not folder.exists()


def test_names_in_an_archive_lead_nowhere(tmp_path: Path) -> None:
    (path,) = write_series(tmp_path / "series")[:1]
    with zipfile.ZipFile(tmp_path / "sly.zip", "w") as archive:
        archive.write(path, "../../outside.dcm")
        archive.write(path, "/etc/outside.dcm")
    with files_of(tmp_path / "sly.zip") as files:
        assert len(files.paths) == 2
        assert all(one.parent == files.root for one in files.paths)
    assert not (tmp_path.parent / "outside.dcm").exists()


@pytest.mark.parametrize(
    ("limits", "what"),
    [
        (Limits(files=2), "3 files"),
        (Limits(file_bytes=1000), "1000000 bytes in one file"),
        (Limits(total_bytes=1000), "1000200 bytes in all"),
        (Limits(spare_bytes=1 << 60), "no room for"),
    ],
)
def test_an_archive_that_unpacks_to_too_much_is_refused_before_it_does(
    tmp_path: Path, limits: Limits, what: str
) -> None:
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", bytes(1_000_000))
        archive.writestr("b", bytes(100))
        archive.writestr("c", bytes(100))
    with pytest.raises(InvalidInput, match=what), files_of(bomb, limits):
        pass


def test_an_archive_whose_sizes_lie_is_damaged(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", bytes(1_000_000))
    whole = bomb.read_bytes()
    # The size stands little-endian in the local header and in the directory.
    bomb.write_bytes(whole.replace((1_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with files_of(bomb) as files:
        assert files.paths == ()
        assert [note.reason for note in files.notes] == ["It is damaged."]


def test_archives_within_archives_are_noted_and_not_opened(tmp_path: Path) -> None:
    write_series(tmp_path / "series")
    packed(tmp_path / "series", tmp_path / "series" / "inner.zip")
    with files_of(packed(tmp_path / "series", tmp_path / "outer.zip")) as files:
        assert len(files.paths) == 6
        assert [note.name for note in files.notes] == ["inner.zip"]


def test_a_cut_archive_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "series")
    archive = packed(tmp_path / "series", tmp_path / "series.zip")
    whole = archive.read_bytes()
    broken = bytearray(whole)
    middle = len(whole) // 2
    broken[middle : middle + 200] = bytes(200)
    archive.write_bytes(bytes(broken))
    with files_of(archive) as files:
        assert any(note.reason == "It is damaged." for note in files.notes)


@given(st.binary(max_size=400))
def test_any_bytes_are_a_file_or_a_damaged_archive(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("any") / "any.zip"
    path.write_bytes(b"PK\x03\x04" + content)
    try:
        with files_of(path) as files:
            found = find_series(files)
    except UnreadableFile as error:
        assert error.next_step
    else:
        assert found.series == ()


def write_dicomdir(folder: Path, file_ids: list[list[str]]) -> Path:
    """A DICOMDIR with one patient and these images."""
    directory = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=bytes(128))
    directory.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    directory.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    directory.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    patient = Dataset()
    patient.DirectoryRecordType = "PATIENT"
    directory.DirectoryRecordSequence = [patient]
    for parts in file_ids:
        record = Dataset()
        record.DirectoryRecordType = "IMAGE"
        record.ReferencedFileID = parts
        directory.DirectoryRecordSequence.append(record)
    directory.save_as(folder / "DICOMDIR", enforce_file_format=True)
    return folder / "DICOMDIR"


def test_a_dicomdir_leads_to_the_files_that_it_lists(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "images")
    write_series(tmp_path / "elsewhere")
    found = catalogue_of(write_dicomdir(tmp_path, [["IMAGES", path.name] for path in paths[:4]]))
    assert found.notes == ()  # the names on the disk are in small letters, as after many copies
    assert [len(row.paths) for row in found.taken] == [4]


def test_a_file_that_a_dicomdir_lists_and_is_missing_is_noted(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "IMAGES")
    paths[2].unlink()
    found = catalogue_of(write_dicomdir(tmp_path, [["IMAGES", path.name] for path in paths]))
    assert len(found.notes) == 1
    assert "not there" in found.notes[0].reason


@pytest.mark.parametrize("way", [["..", "secret"], ["..\\secret"], ["/secret"], ["", "secret"]])
def test_a_dicomdir_leads_out_of_its_folder_nowhere(tmp_path: Path, way: list[str]) -> None:
    (tmp_path / "media").mkdir()
    (path,) = write_series(tmp_path, Layout(slices=1))
    path.rename(tmp_path / "secret")
    listed = write_dicomdir(tmp_path / "media", [["SECRET"]])
    dataset = pydicom.dcmread(listed)
    with quiet_headers():  # pydicom warns of such names
        dataset.DirectoryRecordSequence[1].ReferencedFileID = way
        dataset.save_as(listed)
    found = catalogue_of(listed)
    assert found.series == ()
    assert len(found.notes) == 1


def test_a_file_called_dicomdir_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "DICOMDIR").write_text("no")
    with (
        pytest.raises(UnreadableFile, match="not a DICOM directory"),
        files_of(tmp_path / "DICOMDIR"),
    ):
        pass


def test_a_place_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile, match="nowhere"), files_of(tmp_path / "nowhere"):
        pass


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names here")
def test_a_pipe_in_a_folder_is_not_waited_for(tmp_path: Path) -> None:
    write_series(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    found = catalogue_of(tmp_path)
    assert len(found.taken) == 1
    assert [note.name for note in found.notes] == ["pipe"]


def test_a_folder_without_end_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path)
    with pytest.raises(InvalidInput, match="more than 3"), files_of(tmp_path, Limits(files=3)):
        pass
