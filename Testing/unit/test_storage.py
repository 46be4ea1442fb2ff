from __future__ import annotations

import errno
import os
import stat

import pytest

from protosam.errors import StorageFailure
from protosam.storage import atomic_path


def test_the_file_appears_whole_when_the_block_ends(tmp_path):
    target = tmp_path / "a.txt"
    with atomic_path(target) as temporary:
        temporary.write_text("new")

        assert not target.exists()
        assert temporary.parent == tmp_path
        assert temporary.name.endswith(".a.txt")
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(type(error)), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise error

    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("number", "step"),
    [
        (errno.ENOSPC, "Free some space"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "may write to"),
        (errno.EIO, "another folder"),
    ],
)
def test_what_the_system_refuses_is_said_with_a_next_step(tmp_path, number, step):
    target = tmp_path / "a.txt"
    with pytest.raises(StorageFailure, match=os.strerror(number)) as caught, atomic_path(target):
        raise OSError(number, os.strerror(number))

    assert step in caught.value.next_step
    assert not list(tmp_path.iterdir())


def test_a_folder_that_does_not_exist_is_said(tmp_path):
    with (
        pytest.raises(StorageFailure, match="No such file") as caught,
        atomic_path(tmp_path / "gone" / "a.txt"),
    ):
        pass

    assert "Make the folder first" in caught.value.next_step


def test_a_folder_is_not_replaced_by_a_file(tmp_path):
    target = tmp_path / "folder"
    target.mkdir()
    with pytest.raises(StorageFailure), atomic_path(target) as temporary:
        temporary.write_text("x")

    assert target.is_dir()


def test_a_new_file_gets_the_usual_permissions_and_an_old_one_keeps_its_own(tmp_path):
    usual, target = tmp_path / "usual", tmp_path / "a.txt"
    usual.touch()
    with atomic_path(target) as temporary:
        temporary.write_text("x")
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE(usual.stat().st_mode)

    target.chmod(0o600)
    with atomic_path(target) as temporary:
        temporary.write_text("y")
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_a_file_larger_than_the_limit_of_the_process_is_refused(tmp_path):
    resource = pytest.importorskip("resource")
    target = tmp_path / "a.bin"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(StorageFailure, match="too large"), atomic_path(target) as temporary:
            temporary.write_bytes(bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_said_and_the_old_file_stays(a_full_disk):
    target = a_full_disk / "a.bin"
    target.write_bytes(b"old")
    with pytest.raises(StorageFailure, match="No space left") as caught, atomic_path(target) as new:
        new.write_bytes(bytes(200_000))

    assert "Free some space" in caught.value.next_step
    assert target.read_bytes() == b"old"
    assert list(a_full_disk.iterdir()) == [target]
