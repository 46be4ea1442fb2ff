"""Stored pixels of frames, decoded and turned into the values they stand for (HU on CT).

Rules
-----
* pydicom decodes what it can; lossless JPEG and 12-bit JPEG go through ITK's GDCM, frame by frame,
  as a file without any header but the form of its pixels.
* Bits beside the stored ones (overlays of old files) are pydicom's to remove.
* Values are modality values: rescale or modality LUT of the frame, windows and presentation never.
* A transfer syntax that nothing here decodes is refused by its name.
"""

# SimpleITK ships no types for its methods.
# mypy: allow-untyped-calls

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_modality_lut
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import (
    JPEG2000,
    UID,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    SecondaryCaptureImageStorage,
)

from protosam.dicom.faults import DAMAGED
from protosam.dicom.frames import Frame
from protosam.dicom.quiet import quiet_headers
from protosam.errors import OutOfMemory, UnreadableFile
from protosam.extents import VoxelArray

_BY_ITK = (JPEGLossless, JPEGLosslessSV1, JPEGExtended12Bit, JPEG2000, JPEG2000Lossless)
_UNPACK = "Export it again, uncompressed if there is a choice."
_SHAPE_TAGS = (
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "SamplesPerPixel",
    "PhotometricInterpretation",
)


def can_decode(syntax: str) -> bool:
    """Whether pixels of this transfer syntax can be decoded on this machine."""
    uid = UID(syntax)
    if uid in _BY_ITK:
        return True
    try:
        return bool(get_decoder(uid).is_available)
    except NotImplementedError:  # pydicom knows no decoder, as for videos
        return False


def modality_values(frames: Sequence[Frame]) -> list[VoxelArray]:
    """Values of frames in the given order.

    Parameters
    ----------
    frames : sequence of Frame
        Frames of one file are read together if they follow each other.

    Returns
    -------
    list of (rows, columns) arrays
        int16 or int32 where all values are whole, else float32; one dtype for all of them.

    Raises
    ------
    UnreadableFile
        Pixels that are missing, truncated, damaged or of an unknown transfer syntax.
    OutOfMemory
        They do not fit into the memory.
    """
    try:
        values = [
            _transformed(stored, dataset, frame)
            for path, group in groupby(frames, key=lambda one: one.path)
            for dataset, frame, stored in _stored(path, list(group))
        ]
        return _one_dtype(values)
    except MemoryError as error:
        raise OutOfMemory(
            "The series does not fit into the memory.", "Close other programs."
        ) from error


def _stored(path: Path, frames: Sequence[Frame]) -> Iterator[tuple[Dataset, Frame, VoxelArray]]:
    """Decode the wanted frames of one file."""
    try:
        with quiet_headers():
            dataset = pydicom.dcmread(path)
            syntax = UID(str(dataset.file_meta.TransferSyntaxUID))
    except DAMAGED as error:
        raise UnreadableFile("A file of the series cannot be read.", _UNPACK) from error
    if not can_decode(syntax):
        raise UnreadableFile(f"The pixels are compressed as {syntax.name}.", _UNPACK)
    for frame in frames:
        array = _decoded(dataset, frame.index, syntax)
        if array.shape != frame.shape:
            raise UnreadableFile(
                f"A frame decodes to {array.shape} pixels, its header says {frame.shape}.", _UNPACK
            )
        yield dataset, frame, array


def _decoded(dataset: Dataset, index: int, syntax: UID) -> VoxelArray:
    """One frame by pydicom, or by ITK where pydicom cannot."""
    try:
        with quiet_headers():
            found: VoxelArray = next(iter_pixels(dataset, indices=[index], raw=True))
        return found
    except (*DAMAGED, StopIteration) as error:
        if syntax in _BY_ITK:
            return _by_itk(dataset, index, syntax)
        raise UnreadableFile(
            f"The pixels of a slice ({syntax.name}) are missing, cut short or damaged.", _UNPACK
        ) from error


def _by_itk(dataset: Dataset, index: int, syntax: UID) -> VoxelArray:
    """One frame by GDCM, from a file that holds nothing but this frame."""
    bare = Dataset()
    bare.SOPClassUID = SecondaryCaptureImageStorage
    bare.SOPInstanceUID = pydicom.uid.generate_uid()
    bare.file_meta = FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = syntax
    try:
        for name in _SHAPE_TAGS:
            setattr(bare, name, dataset[name].value)
        count = int(dataset.get("NumberOfFrames", 1) or 1)
        frame = get_frame(dataset.PixelData, index, number_of_frames=count)
        bare.PixelData = encapsulate([frame])
        bare["PixelData"].is_undefined_length = True
        with tempfile.TemporaryDirectory(prefix="protosam-dicom-") as folder:
            path = Path(folder, "frame.dcm")
            bare.save_as(path, enforce_file_format=True)
            reader = sitk.ImageFileReader()
            reader.SetImageIO("GDCMImageIO")
            reader.SetFileName(str(path))
            array: VoxelArray = sitk.GetArrayFromImage(reader.Execute())
    except DAMAGED as error:
        raise UnreadableFile(
            f"The pixels of a slice ({syntax.name}) cannot be decoded.", _UNPACK
        ) from error
    return array.reshape(array.shape[-2:])


def _transformed(stored: VoxelArray, dataset: Dataset, frame: Frame) -> VoxelArray:
    try:
        with quiet_headers():
            if dataset.get("ModalityLUTSequence"):
                looked_up: VoxelArray = apply_modality_lut(stored, dataset)
                return looked_up
            slope, intercept = _rescale(dataset, frame.index)
    except DAMAGED as error:
        raise UnreadableFile(
            "The modality LUT or the rescaling of a slice is damaged.",
            "Export the series again.",
        ) from error
    if slope == 1 and intercept == 0:
        return stored
    if slope.is_integer() and intercept.is_integer():
        largest = np.iinfo(stored.dtype).max * 2 * abs(slope) + abs(intercept)
        wide = np.dtype(np.int32 if largest < np.iinfo(np.int32).max else np.int64)
        whole: VoxelArray = np.multiply(stored, int(slope), dtype=wide)
        return np.add(whole, int(intercept), dtype=wide)
    return (stored * np.float64(slope) + intercept).astype(np.float32)


def _rescale(dataset: Dataset, index: int) -> tuple[float, float]:
    places = [dataset]
    if dataset.get("PerFrameFunctionalGroupsSequence"):
        places = [dataset.PerFrameFunctionalGroupsSequence[index]]
        places += list(dataset.get("SharedFunctionalGroupsSequence") or [])
        places = [
            place.PixelValueTransformationSequence[0]
            for place in places
            if place.get("PixelValueTransformationSequence")
        ]
    for place in places:
        slope = float(place.get("RescaleSlope", None) or 1)  # a slope of 0 would be no image
        intercept = float(place.get("RescaleIntercept", None) or 0)
        if not np.isfinite([slope, intercept]).all():
            raise ValueError("not finite")
        return slope, intercept
    return 1.0, 0.0


def _one_dtype(values: list[VoxelArray]) -> list[VoxelArray]:
    if any(one.dtype.kind == "f" for one in values):
        return [one.astype(np.float32) for one in values]
    lowest = min(int(one.min()) for one in values)
    highest = max(int(one.max()) for one in values)
    for kind in (np.int16, np.int32):  # half the memory for nearly all scanners, here and later
        if lowest >= np.iinfo(kind).min and highest <= np.iinfo(kind).max:
            return [one.astype(kind) for one in values]
    return [one.astype(np.float32) for one in values]
