"""What was written, read back and compared with what was given, before it counts.

Rules
-----
* Masks voxel by voxel, through readers that share no code with the writers; codes, frame of
  reference, study and the source instance of every frame.
* The first difference is an error; nothing is repaired here.
* It reads files and writes none.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from pydicom.dataset import Dataset

from protosam.dicom.faults import DAMAGED
from protosam.dicom.quiet import quiet_headers
from protosam.dicom.read import SeriesVolume
from protosam.dicom.rtstruct import read_structures
from protosam.dicom.segmentations import (
    ReadSegments,
    coding_in,
    described_segments,
    read_segments,
)
from protosam.dicom.stacks import POSITION_TOLERANCE_MM
from protosam.dicom.terminology import Coding
from protosam.dicom.write import codings_of
from protosam.errors import StorageFailure
from protosam.seg_nrrd import Segment, read_segmentation

_STEP = "Nothing was kept. Save as .seg.nrrd, and report this with the command that failed."


def check_dicom_seg(path: Path, segments: Sequence[Segment], source: SeriesVolume) -> None:
    """Compare a DICOM SEG on the disk with the segments it was made from.

    Raises
    ------
    StorageFailure
        Any difference, with its number of voxels, or a file that highdicom does not parse.
    """
    try:
        with quiet_headers():
            dataset = hd.seg.segread(path)
    except DAMAGED as error:
        raise _differs(f"highdicom does not parse it ({type(error).__name__})") from error
    _compare_masks(read_segments(path, source), segments)
    _compare_place(dataset, source)
    wanted = codings_of(segments)
    for item, coding, one in zip(described_segments(dataset), wanted, segments, strict=True):
        _compare_coding(coding_in(item), coding, one.name)
    if not source.is_straightened:
        _compare_references(dataset, source)


def check_structures(path: Path, segments: Sequence[Segment], source: SeriesVolume) -> None:
    """Compare an RT structure set on the disk with the segments it was made from.

    Raises
    ------
    StorageFailure
        Any difference.
    """
    with quiet_headers():
        dataset = pydicom.dcmread(path)
    _compare_masks(read_structures(path, source), segments)
    _compare_place(dataset, source)


def check_seg_nrrd(path: Path, segments: Sequence[Segment], source: SeriesVolume) -> None:
    """Compare a `.seg.nrrd` on the disk with the segments it was made from.

    Raises
    ------
    StorageFailure
        Any difference.
    """
    found = read_segmentation(path)
    if found.shape_kji != source.volume.shape_kji or not np.allclose(
        found.affine, source.volume.affine, atol=1e-4
    ):
        raise _differs("its grid is another one")
    _compare_masks(ReadSegments(found.segments), segments)


def _compare_masks(found: ReadSegments, segments: Sequence[Segment]) -> None:
    if found.notes:
        raise _differs(found.notes[0])
    if len(found.segments) != len(segments):
        raise _differs(f"it holds {len(found.segments)} segments instead of {len(segments)}")
    for ours, theirs in zip(segments, found.segments, strict=True):
        wrong = int((ours.mask != theirs.mask).sum())
        if wrong:
            raise _differs(f"{wrong} voxels of the segment {ours.name!r}")


def _compare_place(dataset: Dataset, source: SeriesVolume) -> None:
    if str(dataset.FrameOfReferenceUID) != source.identity.frame_of_reference_uid:
        raise _differs("its frame of reference is another one")
    if str(dataset.StudyInstanceUID) != source.identity.study_uid:
        raise _differs("it lies in another study")


def _compare_coding(found: Coding | None, wanted: Coding, name: str) -> None:
    if found is None:
        raise _differs(f"the codes of {name!r} are missing")
    for part in ("category", "type", "side", "region", "region_side"):
        ours, theirs = getattr(wanted, part), getattr(found, part)
        if (ours is None) != (theirs is None) or (ours and not ours.is_same(theirs)):
            raise _differs(f"the {part} of {name!r} is {theirs} instead of {ours}")


def _compare_references(dataset: Dataset, source: SeriesVolume) -> None:
    """Each frame lies where the source frame lies that it names."""
    places = {(one.instance_uid, one.index): one.position_lps_mm for one in source.frames}
    for item in dataset.PerFrameFunctionalGroupsSequence:
        named = item.DerivationImageSequence[0].SourceImageSequence[0]
        index = int(named.get("ReferencedFrameNumber", 1)) - 1
        place = places.get((str(named.ReferencedSOPInstanceUID), index))
        position = np.array(item.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        if place is None or np.abs(place - position).max() > POSITION_TOLERANCE_MM:
            raise _differs(f"a frame at {position.round(2).tolist()} names another source image")


def _differs(what: str) -> StorageFailure:
    return StorageFailure(
        f"The file was written, but reading it back gave a difference: {what}.", _STEP
    )
