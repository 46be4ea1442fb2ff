"""Tensors on disk: exact, limited, never trusted, never in the way."""

from __future__ import annotations

import logging
import os
import threading
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from protosam.errors import InvalidInput
from protosam.models.disk_cache import QUEUE_LENGTH, STALE_S, DiskStore, default_folder

A, B, C = "aa", "bb", "cc"


def some_tensors(seed=0, count=1000):
    made = torch.Generator().manual_seed(seed)
    return {
        "features": torch.randn(count, generator=made),
        "half": torch.randn(3, 4, generator=made).bfloat16(),
        "frame": torch.tensor([1, 2, 3]),
    }


def same(one, other):
    return one.keys() == other.keys() and all(
        one[key].dtype == other[key].dtype and torch.equal(one[key], other[key]) for key in one
    )


def write(store, name, tensors):
    assert store.write_later(name, tensors)
    store.wait()


@pytest.fixture
def store(tmp_path):
    made = DiskStore(tmp_path / "cache" / "embeddings")
    yield made
    made.close()


def test_what_was_written_is_read_back_bit_by_bit_by_another_process(store):
    write(store, A, some_tensors())
    assert same(DiskStore(store.folder).read(A), some_tensors())
    assert store.read(B) is None


@given(
    st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64]),
    st.lists(st.integers(0, 4), max_size=4),
    st.integers(0, 9),
)
def test_any_dtype_and_shape_comes_back(tmp_path_factory, dtype, shape, seed):
    store = DiskStore(tmp_path_factory.mktemp("disk"))
    made = torch.Generator().manual_seed(seed)
    tensor = (torch.randn(shape, generator=made) * 9).to(dtype)
    write(store, A, {"one": tensor})
    assert same(store.read(A), {"one": tensor})
    store.close()


def test_axes_come_back_in_their_order_in_memory(store):
    image = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    gaps = torch.arange(24).reshape(4, 6)[:, ::2].T
    write(store, A, {"image": image, "gaps": gaps})
    read = store.read(A)
    assert same(read, {"image": image, "gaps": gaps})
    assert read["image"].stride() == image.stride()


def test_a_new_entry_takes_the_place_of_the_old_one(store):
    write(store, A, some_tensors(0))
    write(store, A, some_tensors(1))
    assert same(store.read(A), some_tensors(1))


def test_only_the_owner_can_read_the_files(store):
    write(store, A, some_tensors())
    assert store.folder.stat().st_mode & 0o777 == 0o700
    assert store.path(A).stat().st_mode & 0o777 == 0o600


def test_a_name_that_is_no_digest_is_refused(store):
    for name in ("../escape", "", "AB", "a.b"):
        with pytest.raises(InvalidInput, match="not a digest"):
            store.write_later(name, some_tensors())
        with pytest.raises(InvalidInput, match="not a digest"):
            store.read(name)


@pytest.mark.parametrize("place", [0, 4, 40, 200, -5])
def test_a_changed_byte_is_noticed_and_the_file_deleted(store, caplog, place):
    write(store, A, some_tensors())
    data = bytearray(store.path(A).read_bytes())
    data[place] ^= 0x55
    store.path(A).write_bytes(data)
    with caplog.at_level(logging.WARNING):
        assert store.read(A) is None
    assert "damaged" in caplog.text
    assert not store.path(A).exists()
    write(store, A, some_tensors())
    assert same(store.read(A), some_tensors())


@pytest.mark.parametrize("length", [0, 7, 100, 3000])
def test_a_cut_off_file_is_noticed_and_deleted(store, caplog, length):
    write(store, A, some_tensors())
    store.path(A).write_bytes(store.path(A).read_bytes()[:length])
    with caplog.at_level(logging.WARNING):
        assert store.read(A) is None
    assert "damaged" in caplog.text
    assert not store.path(A).exists()


def test_a_file_under_the_name_of_another_entry_is_not_taken_for_it(store, caplog):
    write(store, A, some_tensors())
    store.path(A).rename(store.path(B))
    assert store.read(B) is None
    assert "holds the entry aa" in caplog.text


def test_a_foreign_file_is_not_trusted(store, caplog):
    store.folder.mkdir(parents=True)
    save_file(some_tensors(), store.path(A))
    assert store.read(A) is None
    assert "damaged" in caplog.text


def test_the_entries_used_longest_ago_make_room(tmp_path):
    store = DiskStore(tmp_path, limit_bytes=10_000)  # two of these
    write(store, A, some_tensors(0))
    write(store, B, some_tensors(1))
    long_ago = time.time() - 60
    os.utime(store.path(A), (long_ago, long_ago))
    os.utime(store.path(B), (long_ago + 1, long_ago + 1))
    assert store.read(A) is not None  # used now
    write(store, C, some_tensors(2))
    assert store.read(B) is None
    assert same(store.read(A), some_tensors(0))
    assert same(store.read(C), some_tensors(2))
    store.close()


def test_files_that_were_never_finished_are_removed_when_old(store):
    write(store, A, some_tensors())
    old, new = (store.folder / f"tmp{name}.part" for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half")
    long_ago = time.time() - STALE_S - 10
    os.utime(old, (long_ago, long_ago))
    write(store, B, some_tensors())
    assert not old.exists()
    assert new.exists()


@pytest.mark.wall_clock
def test_writing_keeps_nobody_waiting_and_drops_what_is_too_much(tmp_path):
    may_write = threading.Event()

    class SlowStore(DiskStore):
        def _write(self, name, tensors):
            may_write.wait(20)
            super()._write(name, tensors)

    store = SlowStore(tmp_path)
    begun = time.monotonic()
    taken = [store.write_later(f"{n:04x}", some_tensors(n)) for n in range(3 * QUEUE_LENGTH)]
    assert time.monotonic() - begun < 2
    assert QUEUE_LENGTH <= sum(taken) <= QUEUE_LENGTH + 1
    may_write.set()
    store.wait()
    kept = [store.read(f"{n:04x}") is not None for n in range(3 * QUEUE_LENGTH)]
    assert kept == taken
    store.close()


def test_a_folder_that_cannot_be_made_turns_the_store_off_with_a_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    store = DiskStore(tmp_path / "file" / "embeddings")
    store.write_later(A, some_tensors())
    store.wait()
    assert not store.is_on
    assert "no longer kept on disk" in caplog.text
    assert store.read(A) is None
    assert not store.write_later(B, some_tensors())


def test_a_full_disk_turns_the_store_off_and_leaves_no_rubbish(a_full_disk, caplog):
    store = DiskStore(a_full_disk / "embeddings")
    store.write_later(A, some_tensors(count=100_000))
    store.wait()
    assert not store.is_on
    assert "No space left" in caplog.text
    assert list(store.folder.iterdir()) == []
    assert not store.write_later(B, some_tensors(count=10))


def test_tensors_that_cannot_be_written_do_not_stop_the_thread(store, caplog):
    store.write_later(A, {"one": torch.zeros(3).to_sparse()})
    store.wait()
    assert not store.is_on
    assert "no longer kept on disk" in caplog.text


def test_a_closed_store_has_written_everything_and_can_be_read(store):
    taken = [store.write_later(name, some_tensors()) for name in (A, B, C)]
    store.close()
    assert taken == [True, True, True]
    assert all(same(store.read(name), some_tensors()) for name in (A, B, C))
    assert not store.write_later(A, some_tensors())
    store.close()


def test_clearing_deletes_every_entry(store):
    write(store, A, some_tensors())
    store.path(B).write_bytes(b"")
    store.clear()
    assert list(store.folder.iterdir()) == []
    DiskStore(store.folder / "never made").clear()


def test_the_default_folder_is_the_users_own():
    assert default_folder().name == "embeddings"
    assert "protosam" in default_folder().parts
