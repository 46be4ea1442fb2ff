"""Masks as an RT structure set, and structure sets as masks.

Rules
-----
* Contours are closed and planar, one body each with its holes as keyholes, in the source's slices;
  `contours.py` draws them. Points are LPS mm with four decimals.
* Implicit VR: with explicit VR a contour of more than 64 KB, as a lung's, has no room.
* Contours are read back onto slices of a volume; those along other planes are refused.
* A library's message is not quoted: it could hold a patient's values.
"""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom import config
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from protosam import __version__
from protosam.dicom.contours import mask_of, polygons_of
from protosam.dicom.copied import copied_headers
from protosam.dicom.faults import DAMAGED
from protosam.dicom.frames import Frame
from protosam.dicom.quiet import quiet_headers
from protosam.dicom.read import SeriesVolume
from protosam.dicom.segmentations import (
    ReadSegments,
    coding_in,
    plain_text,
    refuse_other_place,
)
from protosam.dicom.terminology import Coding
from protosam.dicom.write import (
    MANUFACTURER,
    Algorithm,
    algorithm_kind,
    check_segments,
    coded,
    codings_of,
    series_number,
)
from protosam.errors import GeometryError, InvalidInput, UnreadableFile
from protosam.extents import BoolArray, FloatArray
from protosam.geometry import flip_ras_lps, kji_to_ras, ras_to_kji
from protosam.seg_nrrd import DEFAULT_COLOUR, DEFAULT_TERMINOLOGY, Segment

ON_SLICE = 0.5
"""How far, in slices, a contour may lie from the slice that it is counted to."""

_PATIENT_AND_STUDY = (
    "SpecificCharacterSet",
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "StudyDescription",
    "AccessionNumber",
    "ReferringPhysicianName",
)
_DETACHED_STUDY = "1.2.840.10008.3.1.2.3.1"


def build_structures(
    segments: Sequence[Segment], source: SeriesVolume, algorithm: Algorithm
) -> FileDataset:
    """RT structure set of masks, in memory.

    Parameters
    ----------
    segments : sequence of Segment
        Masks (k, j, i) on the grid of `source`, coded by terminology entry or name.
    source : SeriesVolume
        The series that they were found in.
    algorithm : Algorithm
        What found them.

    Raises
    ------
    InvalidInput, GeometryError
        As `write.build_segmentation`.
    """
    check_segments(segments, source)
    codings = codings_of(segments)
    try:
        with quiet_headers():
            headers = copied_headers(source)
            dataset = _header(headers[0], source)
            classes = {str(one.SOPInstanceUID): str(one.SOPClassUID) for one in headers}
            reference = source.identity.frame_of_reference_uid
            dataset.ReferencedFrameOfReferenceSequence = [_references(source, classes)]
            dataset.StructureSetROISequence = []
            dataset.ROIContourSequence = []
            dataset.RTROIObservationsSequence = []
            for number, (one, coding) in enumerate(zip(segments, codings, strict=True), 1):
                roi = _roi(number, one, algorithm)
                roi.ReferencedFrameOfReferenceUID = reference
                dataset.StructureSetROISequence.append(roi)
                dataset.ROIContourSequence.append(_contours(number, one, coding, source, classes))
                dataset.RTROIObservationsSequence.append(_observation(number, coding))
    except InvalidInput:
        raise
    except DAMAGED as error:
        raise InvalidInput(
            f"The headers of series {source.identity.series_uid} cannot carry a structure set "
            f"({type(error).__name__}).",
            "Export the series again, or save as .seg.nrrd.",
        ) from None  # the library's message may quote values of the patient
    return dataset


def read_structures(path: Path, source: SeriesVolume) -> ReadSegments:
    """Read an RT structure set onto the slices of a series.

    Contours of one structure in one slice are combined by exclusive or, so holes may be keyholes
    or contours of their own.

    Raises
    ------
    UnreadableFile
        No structure set, or a damaged one.
    GeometryError
        Another frame of reference, or contours that do not lie along the slices.
    """
    try:
        with quiet_headers():
            dataset = pydicom.dcmread(path)
            names = {int(one.ROINumber): one for one in dataset.StructureSetROISequence}
            observed = {
                int(one.ReferencedROINumber): one
                for one in dataset.get("RTROIObservationsSequence") or ()
            }
            for one in names.values():
                refuse_other_place(str(one.ReferencedFrameOfReferenceUID), source)
            found: list[Segment] = []
            notes: list[str] = []
            for item in dataset.get("ROIContourSequence") or ():
                number = int(item.ReferencedROINumber)
                mask, lost = _mask(item, source)
                found.append(_segment(item, names[number], observed.get(number), mask))
                if lost:
                    notes.append(f"{lost} contours of structure {number} could not be placed.")
    except GeometryError:
        raise
    except DAMAGED as error:
        raise UnreadableFile(
            "The file is no RT structure set, or a damaged one.", "Export it again."
        ) from error
    return ReadSegments(tuple(found), tuple(notes))


def _header(first: Dataset, source: SeriesVolume) -> FileDataset:
    dataset = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=b"\0" * 128)
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    for name in _PATIENT_AND_STUDY:
        if name in first:
            dataset[name] = first[name]
    now = datetime.datetime.now()
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = RTStructureSetStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.SeriesInstanceUID = generate_uid()
    dataset.SeriesNumber = series_number(source)
    dataset.SeriesDescription = "ProtoSAM structures"
    dataset.InstanceNumber = 1
    dataset.OperatorsName = ""
    dataset.Modality = "RTSTRUCT"
    dataset.Manufacturer = dataset.ManufacturerModelName = MANUFACTURER
    dataset.SoftwareVersions = __version__
    dataset.FrameOfReferenceUID = source.identity.frame_of_reference_uid
    dataset.PositionReferenceIndicator = ""
    dataset.StructureSetLabel = "PROTOSAM"
    dataset.StructureSetDate = dataset.InstanceCreationDate = now.strftime("%Y%m%d")
    dataset.StructureSetTime = dataset.InstanceCreationTime = now.strftime("%H%M%S")
    dataset.ApprovalStatus = "UNAPPROVED"
    return dataset


def _references(source: SeriesVolume, classes: dict[str, str]) -> Dataset:
    series = Dataset()
    series.SeriesInstanceUID = source.identity.series_uid
    series.ContourImageSequence = [_image(uid, name) for uid, name in classes.items()]
    study = Dataset()
    study.ReferencedSOPClassUID = _DETACHED_STUDY
    study.ReferencedSOPInstanceUID = source.identity.study_uid
    study.RTReferencedSeriesSequence = [series]
    item = Dataset()
    item.FrameOfReferenceUID = source.identity.frame_of_reference_uid
    item.RTReferencedStudySequence = [study]
    return item


def _image(uid: str, sop_class: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class
    item.ReferencedSOPInstanceUID = uid
    return item


def _roi(number: int, segment: Segment, algorithm: Algorithm) -> Dataset:
    item = Dataset()
    item.ROINumber = number
    item.ROIName = segment.name
    item.ROIGenerationAlgorithm = algorithm_kind(segment, algorithm)
    adapter = f", adapter {algorithm.adapter_digest}" if algorithm.adapter_digest else ""
    item.ROIDescription = (
        f"{algorithm.name} {algorithm.version}, model {algorithm.model_digest}{adapter}"
    )
    return item


def _observation(number: int, coding: Coding) -> Dataset:
    item = Dataset()
    item.ObservationNumber = item.ReferencedROINumber = number
    kind = coded(coding.type)
    if coding.side is not None:
        kind.SegmentedPropertyTypeModifierCodeSequence = [coded(coding.side)]
    item.SegmentedPropertyCategoryCodeSequence = [coded(coding.category)]
    item.RTROIIdentificationCodeSequence = [kind]
    item.RTROIInterpretedType = ""
    item.ROIInterpreter = ""
    return item


def _contours(
    number: int, segment: Segment, coding: Coding, source: SeriesVolume, classes: dict[str, str]
) -> Dataset:
    item = Dataset()
    item.ReferencedROINumber = number
    rgb = coding.colour if segment.colour == DEFAULT_COLOUR else segment.colour
    item.ROIDisplayColor = [round(part * 255) for part in rgb]
    item.ContourSequence = []
    for k in np.flatnonzero(segment.mask.any(axis=(1, 2))).tolist():
        for polygon in polygons_of(segment.mask[k]):
            contour = Dataset()
            if not source.is_straightened:
                contour.ContourImageSequence = [_slice_image(source.frames[k], classes)]
            contour.ContourGeometricType = "CLOSED_PLANAR"
            contour.NumberOfContourPoints = len(polygon)
            # pydicom would check each of the numbers that are written below, for as long as all
            # the rest takes.
            contour["ContourData"] = DataElement(
                "ContourData", "DS", _points_text(polygon, k, source), validation_mode=config.IGNORE
            )
            item.ContourSequence.append(contour)
    return item


def _slice_image(frame: Frame, classes: dict[str, str]) -> Dataset:
    image = _image(frame.instance_uid, classes[frame.instance_uid])
    if list(classes) == [frame.instance_uid]:
        image.ReferencedFrameNumber = frame.index + 1
    return image


def _points_text(polygon: FloatArray, k: int, source: SeriesVolume) -> list[str]:
    kji = np.column_stack([np.full(len(polygon), k), polygon])
    ras = kji_to_ras(source.volume.affine, kji)
    lps = ras @ flip_ras_lps(np.eye(4))[:3, :3]
    return [f"{number:.4f}" for number in lps.reshape(-1)]


def _mask(item: Dataset, source: SeriesVolume) -> tuple[BoolArray, int]:
    """Mask of one structure, and the contours that could not be placed."""
    mask: BoolArray = np.zeros(source.volume.shape_kji, dtype=np.bool_)
    by_slice: dict[int, list[FloatArray]] = defaultdict(list)
    lost = 0
    for contour in item.get("ContourSequence") or ():
        if str(contour.ContourGeometricType) != "CLOSED_PLANAR":
            lost += 1  # points and open lines enclose nothing
            continue
        points = np.array(contour.ContourData, dtype=np.float64).reshape(-1, 3)
        kji = ras_to_kji(source.volume.affine, points @ flip_ras_lps(np.eye(4))[:3, :3])
        if float(np.ptp(kji[:, 0])) > ON_SLICE:
            raise GeometryError(
                "A contour runs across the slices of the series: its points lie "
                f"{float(np.ptp(kji[:, 0])):.1f} slices apart.",
                "Choose the series that the structures were drawn on.",
            )
        k = int(np.rint(kji[:, 0].mean()))
        if 0 <= k < mask.shape[0] and len(points) > 2:
            by_slice[k].append(kji[:, 1:])
        else:
            lost += 1
    for k, polygons in by_slice.items():
        mask[k] = mask_of(polygons, (mask.shape[1], mask.shape[2]))
    return mask, lost


def _segment(item: Dataset, roi: Dataset, observed: Dataset | None, mask: BoolArray) -> Segment:
    name = plain_text(str(roi.get("ROIName", ""))) or f"Structure {int(roi.ROINumber)}"
    colour = DEFAULT_COLOUR
    if item.get("ROIDisplayColor"):
        red, green, blue = (min(max(int(part), 0), 255) / 255 for part in item.ROIDisplayColor)
        colour = (red, green, blue)
    coding = None
    if observed is not None and observed.get("RTROIIdentificationCodeSequence"):
        renamed = Dataset()
        renamed.SegmentedPropertyTypeCodeSequence = observed.RTROIIdentificationCodeSequence
        if observed.get("SegmentedPropertyCategoryCodeSequence"):
            category = observed.SegmentedPropertyCategoryCodeSequence
            renamed.SegmentedPropertyCategoryCodeSequence = category
        coding = coding_in(renamed)
    return Segment(name, mask, colour, terminology=coding.entry if coding else DEFAULT_TERMINOLOGY)
