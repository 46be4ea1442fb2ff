"""Segments of a series onto the disk: written beside the target, compared, and then renamed.

Rules
-----
* A file exists under its name only after it was read back and found equal.
* A target that is one of the source's files is refused, whatever way it is spelled.
* It knows which form is written and compared by whom, and nothing of how.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydicom.dataset import Dataset

from protosam.dicom.quiet import quiet_headers
from protosam.dicom.read import SeriesVolume
from protosam.dicom.rtstruct import build_structures
from protosam.dicom.terminology import coding_of
from protosam.dicom.verify import check_dicom_seg, check_seg_nrrd, check_structures
from protosam.dicom.write import KIND_TAG, Algorithm, build_segmentation
from protosam.errors import InvalidInput
from protosam.seg_nrrd import DEFAULT_COLOUR, Segment, write_segmentation
from protosam.storage import atomic_path

Form = Literal["seg", "labelmap", "rtstruct", "seg.nrrd"]

FORMS: tuple[Form, ...] = ("seg", "labelmap", "rtstruct", "seg.nrrd")


def save_segments(
    path: str | Path,
    segments: Sequence[Segment],
    source: SeriesVolume,
    algorithm: Algorithm,
    form: Form = "seg",
) -> Path:
    """Write segments in one form, read them back, and only then let the file count.

    Parameters
    ----------
    path : path
        The file; its folder must exist. An older file there stays until the new one was compared.
    segments : sequence of Segment
        Masks (k, j, i) on the grid of `source`. In DICOM forms each needs a code.
    source : SeriesVolume
        The series that they were found in.
    algorithm : Algorithm
        What found them.
    form : {'seg', 'labelmap', 'rtstruct', 'seg.nrrd'}
        DICOM SEG (binary, or label map), RT structure set, or Slicer's own file.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InvalidInput
        A form that does not exist, a target among the source's files, no code for a structure.
    GeometryError
        Masks on another grid.
    StorageFailure
        Nothing could be written, or what was read back differs; an older file is as it was.
    """
    target = Path(path)
    if form not in FORMS:
        raise InvalidInput(f"There is no form {form!r}.", f"Choose one of {', '.join(FORMS)}.")
    _refuse_source(target, source)
    if form == "seg.nrrd":
        _save_nrrd(target, segments, source, algorithm)
        return target
    check = check_structures if form == "rtstruct" else check_dicom_seg
    dataset: Dataset
    if form == "rtstruct":
        dataset = build_structures(segments, source, algorithm)
    else:
        is_map = form == "labelmap"
        dataset = build_segmentation(segments, source, algorithm, label_map=is_map)
    with atomic_path(target) as temporary:
        with quiet_headers():
            dataset.save_as(temporary, enforce_file_format=True)
        check(temporary, segments, source)
    return target


def _save_nrrd(
    target: Path, segments: Sequence[Segment], source: SeriesVolume, algorithm: Algorithm
) -> None:
    coded = [_with_codes(one, algorithm) for one in segments]
    # write_segmentation chooses the format by the name, so the temporary one must end like it.
    if not target.name.endswith(".seg.nrrd"):
        raise InvalidInput(f"{target.name} does not end with .seg.nrrd.", "Name it so.")
    with atomic_path(target) as temporary:
        write_segmentation(temporary, coded, source.volume)
        check_seg_nrrd(temporary, segments, source)


def _with_codes(segment: Segment, algorithm: Algorithm) -> Segment:
    """Segment with codes and the digests of what found it; without codes if there are none."""
    tags = {
        KIND_TAG: algorithm.kind,
        "DICOM.SegmentAlgorithmName": algorithm.name,
        "ProtoSAM.ModelSHA256": algorithm.model_digest,
        "ProtoSAM.AdapterSHA256": algorithm.adapter_digest,
        **segment.tags,
    }
    try:
        coding = coding_of(segment.name, segment.terminology)
    except InvalidInput:
        return replace(segment, tags=tags)  # Slicer's own file may hold what has no code
    colour = coding.colour if segment.colour == DEFAULT_COLOUR else segment.colour
    return replace(segment, terminology=coding.entry, colour=colour, tags=tags)


def _refuse_source(target: Path, source: SeriesVolume) -> None:
    if target.exists() and any(target.samefile(frame.path) for frame in source.frames):
        raise InvalidInput(
            f"{target.name} is a file of the source series.", "Choose another name or folder."
        )
