"""What several DICOM tests need: reading a folder, a second reader of SEG, the validator."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from protosam.dicom.find import Catalogue, find_series
from protosam.dicom.read import SeriesVolume, read_series
from protosam.dicom.sources import files_of


def catalogue_of(source: Path) -> Catalogue:
    with files_of(source) as files:
        return find_series(files)


def only_series(source: Path, *, straighten: bool = False) -> SeriesVolume:
    (row,) = [one for one in catalogue_of(source).series if one.kind == "image"]
    return read_series(row, straighten=straighten)


def digests(paths: list[Path]) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def masks_by_source(path: Path) -> dict[tuple[int, str, int], NDArray[np.bool_]]:
    """Masks of a BINARY SEG by segment number, source instance and source frame.

    A reader of its own: bits are taken from the bytes by hand, nothing of highdicom or the package.
    """
    seg = pydicom.dcmread(path)
    bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")
    size = seg.Rows * seg.Columns
    shared = seg.SharedFunctionalGroupsSequence[0]
    found = {}
    for n, item in enumerate(seg.PerFrameFunctionalGroupsSequence):
        # A single segment may be named once, for all frames.
        group = item if "SegmentIdentificationSequence" in item else shared
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        (named,) = item.DerivationImageSequence[0].SourceImageSequence
        key = number, named.ReferencedSOPInstanceUID, int(named.get("ReferencedFrameNumber", 1))
        frame = bits[n * size : (n + 1) * size].reshape(seg.Rows, seg.Columns) > 0
        assert key not in found
        found[key] = frame
    return found


def validator_errors(path: Path) -> list[str]:
    """What dciodvfy calls an error."""
    tool = shutil.which("dciodvfy")
    if tool is None:
        pytest.skip("dciodvfy is missing: scripts/setup_dicom_tools.sh installs dicom3tools")
    done = subprocess.run([tool, "-new", str(path)], capture_output=True, text=True, check=False)
    lines = (done.stderr + done.stdout).splitlines()
    assert any(re.search("SegmentationStorage|Segmentation|RTStructureSet", one) for one in lines)
    return [line for line in lines if line.startswith("Error")]
