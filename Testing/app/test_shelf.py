"""The examples that the page has at hand: names, choices, limits."""

from __future__ import annotations

import pytest

from protosam.errors import InvalidInput


@pytest.fixture
def shelf():
    module = pytest.importorskip("protosam_app.shelf")
    return module.Shelf()


def test_a_new_example_alone_is_chosen_and_others_can_be_added(shelf):
    first = shelf.put_made(["liver"], b"one")
    second = shelf.put_made(["a", "b", "c", "d", "e"], b"two")
    assert second.name == "a, b, c and 2 more"
    assert shelf.chosen() == (b"two",)
    shelf.choose(first.id, True)
    assert shelf.chosen() == (b"one", b"two")
    shelf.forget(second.id)
    assert shelf.get(second.id) is None
    assert shelf.chosen() == (b"one",)


def test_names_are_told_apart_and_become_harmless_file_names(shelf):
    names = [shelf.put_made(["liver"], b"x").name for _ in range(3)]
    assert names == ["liver", "liver (2)", "liver (3)"]
    entry = shelf.put_made(["../../etc/passwd"], b"x")
    assert "/" not in entry.file_name
    assert entry.file_name.endswith(".psexample")


def test_too_large_too_many_and_empty_ones_are_refused(shelf, tmp_path, monkeypatch):
    import protosam_app.shelf as module

    monkeypatch.setattr(module, "MAX_BYTES", 10)
    path = tmp_path / "large.psexample"
    path.write_bytes(b"x" * 11)
    with pytest.raises(InvalidInput, match=r"large\.psexample has"):
        shelf.put_file(path)
    for content in (b"", b"x" * 11):
        with pytest.raises(InvalidInput, match="wanted up to"):
            shelf.put("liver", content)
    for _ in range(module.MOST):
        shelf.put("liver", b"x")
    with pytest.raises(InvalidInput, match="already"):
        shelf.put("liver", b"x")
