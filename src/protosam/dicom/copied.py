"""Headers of a source as its results may carry them: in memory, complete, and valid.

Rules
-----
* Copies only. What is mended here (a missing date, a sex that is none, old character sets) is
  mended in the copy, and the source stays as it is.
* What files a result with its patient (name, id, study) is never changed; where such a value breaks
  the rules of its type, nothing is written, and the message names the attribute, not the value.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydicom import config
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from protosam.dicom.read import SeriesVolume
from protosam.errors import InvalidInput

MAY_BE_MISSING = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
"""Attributes that every object must have, if only empty."""

UNICODE = "ISO_IR 192"
"""Character set of results: names of segments may hold any letter."""

_FILED_BY = ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID")
_SEXES = ("M", "F", "O", "")


def copied_headers(source: SeriesVolume) -> list[Dataset]:
    """Headers of the files of a series, in order of its slices, ready to be built upon.

    Raises
    ------
    InvalidInput
        A name, id or UID that no valid object can carry.
    """
    headers = source.source_headers()
    for header in headers:
        header.decode()
        header.SpecificCharacterSet = UNICODE
        _mend(header)
        for name in MAY_BE_MISSING:
            if name not in header or header[name].value is None:
                setattr(header, name, "")
        if header.PatientSex not in _SEXES:
            header.PatientSex = ""
        if header.get("PatientIdentityRemoved") == "YES" and not _says_how(header):
            header.DeidentificationMethod = "not stated by the source"
    if "PerFrameFunctionalGroupsSequence" in headers[0]:
        _share_planes(headers[0], source)
        return headers
    for header in headers:
        # Equal within our tolerance, but highdicom wants them equal to the last digit.
        header.ImageOrientationPatient = headers[0].ImageOrientationPatient
    return headers


def _mend(header: Dataset) -> None:
    """Empty what breaks the rules of its type, as dates with points in them."""
    for element in list(header):
        if element.VR == "SQ" or element.tag.is_private or _is_valid(element):
            continue
        if element.keyword in _FILED_BY:
            raise InvalidInput(
                f"The attribute {element.keyword} of the source breaks the rules of its type, so "
                "a result could not be filed with it.",
                "Repair it in the archive, or save as .seg.nrrd.",
            )
        header[element.tag] = DataElement(element.tag, element.VR, None)


def _is_valid(element: DataElement) -> bool:
    try:
        DataElement(element.tag, element.VR, element.value, validation_mode=config.RAISE)
    except (ValueError, TypeError):
        return False
    return True


def _says_how(header: Dataset) -> bool:
    names: Sequence[str] = ("DeidentificationMethod", "DeidentificationMethodCodeSequence")
    return any(header.get(name) for name in names)


def _share_planes(header: Dataset, source: SeriesVolume) -> None:
    """Let one orientation and one spacing stand for all frames, as highdicom wants them."""
    shared = header.SharedFunctionalGroupsSequence[0]
    first = header.PerFrameFunctionalGroupsSequence[source.frames[0].index]
    for name in ("PlaneOrientationSequence", "PixelMeasuresSequence"):
        if name not in shared:
            setattr(shared, name, first[name].value)
