"""Examples in the worker: what is told of proposals, what is refused, what is left alone."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

import protosam.worker
from protosam.errors import GeometryError, MissingExtra, StorageFailure
from protosam.extents import Extent, bounding_extent
from protosam.geometry import Volume
from protosam.prompting.apply import PartialSlice, Proposal
from protosam.prompts import PromptSet
from protosam.wire.messages import ApplyExample, MakeExample, TaughtSegment
from protosam.worker import examples, service
from protosam.worker.engine import Follow

SHAPE = (6, 7, 8)
MODEL = SimpleNamespace(name="plain", digest="d1g3st")
SEGMENTER = SimpleNamespace(model=MODEL, cache=None, refiner=None)


@pytest.fixture
def volume():
    voxels = np.random.default_rng(2).integers(0, 99, SHAPE).astype(np.int16)
    return Volume(voxels, np.eye(4), "v")


class Heard:
    """What a host hears of an application."""

    def __init__(self, volume, *, wants_slices=True):
        self.parts, self.reports = [], []
        follow = Follow(
            lambda done, text: self.reports.append((done, text)), lambda: False, self.parts.append
        )
        self.teller = examples._Teller(follow, MODEL, volume, wants_slices=wants_slices)


def a_slice(axis, index, *cells, sure=0.5):
    shape = [n for a, n in enumerate(SHAPE) if a != axis]
    mask = np.zeros(shape, bool)
    for cell in cells:
        mask[cell] = True
    return PartialSlice("liver", axis, index, mask, sure)


def whole(part):
    out = np.zeros(SHAPE, bool)
    if part.extent is not None:
        out[part.extent.slices] = part.mask()
    return out


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_are_told_in_groups_and_lie_where_they_belong(volume, axis):
    heard = Heard(volume)
    heard.teller.slice(a_slice(axis, 2, (1, 1), sure=0.3))
    heard.teller.slice(a_slice(axis, 5, (4, 5), (4, 4), sure=0.75))
    assert heard.parts == []
    heard.teller.progress(0.4, "liver: comparing candidates")

    (part,) = heard.parts
    assert heard.reports == [(0.4, "liver: comparing candidates")]
    assert (part.name, part.axis, part.slices) == ("liver", axis, (2, 5))
    assert part.confidences == {2: 0.3, 5: 0.75}
    turned = np.moveaxis(whole(part), axis, 0)
    assert [tuple(cell) for cell in np.argwhere(turned)] == [(2, 1, 1), (5, 4, 4), (5, 4, 5)]


def test_a_later_slice_replaces_an_earlier_one_and_an_empty_one_is_told_too(volume):
    heard = Heard(volume)
    heard.teller.slice(a_slice(0, 3, (1, 1)))
    heard.teller.slice(a_slice(0, 3))
    heard.teller.progress(0.4, "")
    assert heard.parts[0].extent is None
    assert heard.parts[0].slices == (3,)


def test_groups_keep_a_distance_and_a_proposal_takes_the_place_of_its_slices(volume):
    heard = Heard(volume)
    for index in range(4):
        heard.teller.slice(a_slice(0, index, (1, 1)))
        heard.teller.progress(index / 4, "")
    assert len(heard.parts) < 4
    mask = np.zeros(SHAPE, bool)
    mask[2:4, 3, 3] = True
    box = bounding_extent(mask)
    heard.teller.proposal(
        Proposal(
            "liver", "", (1.0, 0.0, 0.0), box, mask[box.slices], 0, {2: 0.5, 3: 0.9}, 0.1,
            ("Look.",), PromptSet(), 0.2,
        )
    )  # fmt: skip
    last = heard.parts[-1]
    assert last.KIND == "proposed"
    np.testing.assert_array_equal(whole(last), mask)
    assert (last.model, last.digest, last.notes) == ("plain", "d1g3st", ("Look.",))
    assert last.window.low < last.window.high
    count = len(heard.parts)
    heard.teller.progress(0.9, "")
    assert len(heard.parts) == count  # nothing waits any more


def test_who_does_not_want_slices_gets_none(volume):
    heard = Heard(volume, wants_slices=False)
    heard.teller.slice(a_slice(0, 3, (1, 1)))
    heard.teller.progress(0.4, "")
    assert heard.parts == []


def test_a_segment_outside_of_the_volume_is_refused(volume):
    outside = TaughtSegment("liver", "", (1, 0, 0), Extent((5, 0, 0), (7, 1, 1)), b"\xc0")
    with pytest.raises(GeometryError, match="'liver' lies at"):
        examples.make(SEGMENTER, volume, MakeExample("v", (outside,)), Follow(print, bool))


def test_a_full_disk_is_told_with_the_next_step(volume, monkeypatch, tmp_path):
    monkeypatch.setattr(examples.tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(StorageFailure, match="cannot be kept") as caught:
        examples.apply(SEGMENTER, volume, ApplyExample("v", (b"x",)), Follow(print, bool))
    assert caught.value.next_step


def test_a_python_without_their_libraries_still_has_a_worker(monkeypatch):
    monkeypatch.setitem(sys.modules, "protosam.worker.examples", None)
    monkeypatch.delattr(protosam.worker, "examples", raising=False)
    with pytest.raises(MissingExtra, match="which the worker's Python lacks"):
        service._examples()


def test_the_service_is_imported_without_the_libraries_of_examples():
    import subprocess

    code = (
        "import sys, protosam.worker.service\n"
        "print(sorted({'ot', 'sklearn', 'SimpleITK'} & set(sys.modules)))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
