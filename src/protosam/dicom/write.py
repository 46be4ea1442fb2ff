"""Masks become a DICOM SEG in the study of their source series.

Rules
-----
* highdicom builds the object; here it is told which slice is which, what the structures are, who
  found them and with which model.
* Frames are those of the source, at the source's own positions; empty ones are left out. A volume
  that was straightened has frames of its own between the source's.
* The source is read for its patient, study and references. Nothing of it is changed, and nothing
  is written but through `results.py`, which compares before a file counts.
* An error never quotes a library's message here: it could hold a patient's values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from protosam import __version__
from protosam.dicom.copied import copied_headers
from protosam.dicom.faults import DAMAGED
from protosam.dicom.quiet import quiet_headers
from protosam.dicom.read import SeriesVolume
from protosam.dicom.terminology import Code, Coding, coding_of
from protosam.errors import GeometryError, InvalidInput, OutOfMemory
from protosam.extents import BoolArray, VoxelArray
from protosam.geometry import flip_ras_lps
from protosam.seg_nrrd import DEFAULT_COLOUR, Segment

AlgorithmKind = Literal["AUTOMATIC", "SEMIAUTOMATIC", "MANUAL"]

KIND_TAG = "DICOM.SegmentAlgorithmType"
"""Slicer's tag of a segment that says how it was made; it wins over the algorithm's own kind."""

LONGEST_NAME = 64
"""Letters of a label in DICOM."""

SERIES_NUMBER_STEP = 1000
"""Added to the number of the source series."""

MANUFACTURER = "ProtoSAM"
_KINDS = ("AUTOMATIC", "SEMIAUTOMATIC", "MANUAL")


@dataclass(frozen=True)
class Algorithm:
    """What found the segments."""

    name: str
    """As 'ProtoSAM tiny'."""
    version: str
    """Of the program."""
    model_digest: str
    """SHA-256 of the weights."""
    adapter_digest: str = ""
    """SHA-256 of the adapter on top of them; '' without one."""
    kind: AlgorithmKind = "SEMIAUTOMATIC"
    """AUTOMATIC without a person's hand, SEMIAUTOMATIC with clicks, MANUAL drawn."""

    def __post_init__(self) -> None:
        texts = (self.name, self.version, self.model_digest)
        fits = all(texts) and max(len(text) for text in texts) <= LONGEST_NAME
        if not fits or self.kind not in _KINDS:
            raise InvalidInput(
                f"The algorithm is {self}; wanted a name, a version and the digest of the model, "
                f"each of at most {LONGEST_NAME} letters, and one of {', '.join(_KINDS)}.",
                "Fill in what is missing.",
            )


def codings_of(segments: Sequence[Segment]) -> list[Coding]:
    """Codes of segments, all of them or none.

    Raises
    ------
    InvalidInput
        Each segment without a right code, with near matches.
    """
    answers = [_coding_or_problem(one) for one in segments]
    problems = [one for one in answers if isinstance(one, InvalidInput)]
    if problems:
        raise InvalidInput(" ".join(error.message for error in problems), problems[0].next_step)
    return [one for one in answers if isinstance(one, Coding)]


def _coding_or_problem(segment: Segment) -> Coding | InvalidInput:
    try:
        return coding_of(segment.name, segment.terminology)
    except InvalidInput as error:
        return error


def check_segments(segments: Sequence[Segment], source: SeriesVolume) -> None:
    """Refuse what cannot be written for this source.

    Raises
    ------
    InvalidInput
        No segments, an empty one, or a name that DICOM cannot hold.
    GeometryError
        A mask on another grid, or a source without a frame of reference.
    """
    if not segments:
        raise InvalidInput("There is no segment to write.", "Segment something first.")
    for one in segments:
        if one.mask.shape != source.volume.shape_kji:
            raise GeometryError(
                f"The mask of {one.name!r} has the shape {one.mask.shape}, the series "
                f"{source.volume.shape_kji}.",
                "Give masks on the grid of the series.",
            )
        if len(one.name) > LONGEST_NAME or "\\" in one.name:
            raise InvalidInput(
                f"The name {one.name!r} does not fit into DICOM.",
                f"Take at most {LONGEST_NAME} letters, and no backslash.",
            )
        if not one.mask.any():
            raise InvalidInput(f"The segment {one.name!r} is empty.", "Leave it out.")
    if not source.identity.frame_of_reference_uid:
        raise GeometryError(
            f"Series {source.identity.series_uid} has no frame of reference, so nothing can be "
            "placed on it.",
            "Export it again from where it was acquired, or save as .seg.nrrd.",
        )


def build_segmentation(
    segments: Sequence[Segment],
    source: SeriesVolume,
    algorithm: Algorithm,
    *,
    label_map: bool = False,
    description: str = "ProtoSAM segmentation",
) -> Dataset:
    """DICOM SEG of masks, in memory.

    Parameters
    ----------
    segments : sequence of Segment
        Masks (k, j, i) on the grid of `source`, coded by terminology entry or name.
    source : SeriesVolume
        The series that they were found in.
    algorithm : Algorithm
        What found them.
    label_map : bool
        One label a voxel (Label Map Segmentation Storage, 2024) instead of one bit a segment;
        older viewers cannot read it.
    description : str
        Series description.

    Raises
    ------
    InvalidInput
        No code for a structure, segments that overlap in a label map, a header that cannot carry
        a segmentation.
    GeometryError
        Masks on another grid.
    OutOfMemory
        The frames do not fit into the memory.
    """
    check_segments(segments, source)
    codings = codings_of(segments)
    if label_map and _overlap(segments):
        raise InvalidInput(
            "Two segments share voxels, which a label map cannot hold.",
            "Save them as binary segmentation, or cut one of them back.",
        )
    try:
        with quiet_headers():
            headers = copied_headers(source)
            described = [
                _described(n, one, coding, algorithm)
                for n, (one, coding) in enumerate(zip(segments, codings, strict=True), 1)
            ]
            kind = "LABELMAP" if label_map else "BINARY"
            dataset = hd.seg.Segmentation(
                headers,
                segmentation_type=kind,
                segment_descriptions=described,
                series_description=description,
                **_equipment(source),
                **_frames(segments, source),
            )
            _point_at_frames(dataset, source)
    except InvalidInput:
        raise
    except MemoryError as error:
        raise OutOfMemory(
            "The segmentation does not fit into the memory.", "Close other programs."
        ) from error
    except DAMAGED as error:
        raise InvalidInput(
            f"The headers of series {source.identity.series_uid} cannot carry a segmentation "
            f"({type(error).__name__}).",
            "Export the series again, or save as .seg.nrrd.",
        ) from None  # the library's message may quote values of the patient
    return dataset


def _equipment(source: SeriesVolume) -> dict[str, Any]:
    return {
        "series_instance_uid": hd.UID(),
        "series_number": series_number(source),
        "sop_instance_uid": hd.UID(),
        "instance_number": 1,
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": MANUFACTURER,
        "software_versions": __version__,
        "device_serial_number": "0",  # there is no device, and an empty number is not allowed
    }


def series_number(source: SeriesVolume) -> int:
    """Make the number of a series of results from that of its source."""
    number = source.identity.number
    return SERIES_NUMBER_STEP + (int(number) if number.isdigit() else 0)


def _frames(segments: Sequence[Segment], source: SeriesVolume) -> dict[str, Any]:
    """Pixels and their places, as highdicom wants them."""
    pixels = _pixels(segments)
    if source.is_straightened:
        affine = flip_ras_lps(source.volume.affine)[:, [2, 1, 0, 3]]  # columns as the array's axes
        channels = (
            {"SegmentNumber": list(range(1, pixels.shape[3] + 1))} if pixels.ndim == 4 else None
        )
        reference = source.identity.frame_of_reference_uid
        volume = hd.Volume(
            pixels,
            affine,
            "PATIENT",
            frame_of_reference_uid=reference,
            channels=cast(Any, channels),
        )
        return {"pixel_array": volume}
    first = source.frames[0]
    step_mm = float(source.volume.spacing_kji_mm[0])
    return {
        "pixel_array": pixels,
        "plane_positions": [
            hd.PlanePositionSequence("PATIENT", one.position_lps_mm.tolist())
            for one in source.frames
        ],
        "plane_orientation": hd.PlaneOrientationSequence(
            "PATIENT", first.axes_lps.reshape(6).tolist()
        ),
        "pixel_measures": hd.PixelMeasuresSequence(
            first.spacing_mm, first.thickness_mm, step_mm if len(source.frames) > 1 else None
        ),
    }


def _pixels(segments: Sequence[Segment]) -> VoxelArray:
    """Labels (k, j, i), or (k, j, i, segment) where segments overlap: that takes more memory."""
    if _overlap(segments):
        return np.stack([one.mask for one in segments], axis=-1).astype(np.uint8)
    kind = np.uint8 if len(segments) < 256 else np.uint16
    labels = np.zeros(segments[0].mask.shape, dtype=kind)
    for number, one in enumerate(segments, 1):
        labels[one.mask] = number
    return labels


def algorithm_kind(segment: Segment, algorithm: Algorithm) -> str:
    """Say how a segment was made: by its own tag if it has one, else as the algorithm says.

    Raises
    ------
    InvalidInput
        A tag that DICOM does not know.
    """
    kind = segment.tags.get(KIND_TAG, algorithm.kind)
    if kind not in _KINDS:
        raise InvalidInput(
            f"The kind of the segment {segment.name!r} is {kind!r}.",
            f"Set its tag {KIND_TAG} to one of {', '.join(_KINDS)}.",
        )
    return kind


def _overlap(segments: Sequence[Segment]) -> bool:
    taken: BoolArray = np.zeros(segments[0].mask.shape, dtype=np.bool_)
    for one in segments:
        if (taken & one.mask).any():
            return True
        taken |= one.mask
    return False


def _described(
    number: int, segment: Segment, coding: Coding, algorithm: Algorithm
) -> hd.seg.SegmentDescription:
    kind = algorithm_kind(segment, algorithm)
    digests = {"model": algorithm.model_digest}
    if algorithm.adapter_digest:
        digests["adapter"] = algorithm.adapter_digest
    identification = hd.AlgorithmIdentificationSequence(
        name=algorithm.name,
        family=codes.DCM.ArtificialIntelligence,
        version=algorithm.version,
        source=MANUFACTURER,
        parameters=digests,
    )
    rgb = coding.colour if segment.colour == DEFAULT_COLOUR else segment.colour
    described = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=segment.name,
        segmented_property_category=coded(coding.category),
        segmented_property_type=coded(coding.type),
        algorithm_type=kind,
        algorithm_identification=None if kind == "MANUAL" else identification,
        anatomic_regions=[_region(coding)] if coding.region else None,
        display_color=hd.color.CIELabColor.from_rgb(*(round(part * 255) for part in rgb)),
    )
    if coding.side:
        kind_item = described.SegmentedPropertyTypeCodeSequence[0]
        kind_item.SegmentedPropertyTypeModifierCodeSequence = [coded(coding.side)]
    return described


def coded(code: Code) -> hd.sr.CodedConcept:
    """Make an item of a code sequence."""
    return hd.sr.CodedConcept(code.value, code.scheme, code.meaning[:64])


def _region(coding: Coding) -> hd.sr.CodedConcept:
    item = coded(coding.region or coding.type)
    if coding.region_side is not None:
        item.AnatomicRegionModifierSequence = [coded(coding.region_side)]
    return item


def _point_at_frames(dataset: Dataset, source: SeriesVolume) -> None:
    """Let each frame name the source frame at its place.

    highdicom looks for source frames by position alone; in a file of several echoes there are
    several at each place, and it would take any of them.
    """
    if source.is_straightened:
        return
    depths = np.array([one.position_lps_mm for one in source.frames])
    for item in dataset.PerFrameFunctionalGroupsSequence:
        position = np.array(item.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        k = int(np.linalg.norm(depths - position, axis=1).argmin())
        frame = source.frames[k]
        derivation = item.DerivationImageSequence[0]
        referenced = derivation.SourceImageSequence[0]
        derivation.SourceImageSequence = [referenced]
        referenced.ReferencedSOPInstanceUID = frame.instance_uid
        if "ReferencedFrameNumber" in referenced:
            referenced.ReferencedFrameNumber = frame.index + 1
