"""From a path to a volume that can be shown: image files, DICOM folders, archives of either.

Rules
-----
* Everything here may take seconds and runs beside the event loop; nothing of the scene is touched.
* Archives must have been unpacked by `uploads`, which knows how to do that safely.
* What cannot be trusted is refused by one sentence; file names stay out of the messages of DICOM
  series, because they often hold names of patients.
* Whose image it is stays in memory, for saved cases, which keep a salted hash of it; it is shown
  nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from protosam.dicom.find import find_series
from protosam.dicom.quiet import quiet_headers
from protosam.dicom.read import SeriesVolume, read_series
from protosam.dicom.sources import Files
from protosam.errors import InvalidInput, UnreadableFile
from protosam.extents import VoxelArray
from protosam.geometry import Volume
from protosam.intensity import Window, auto_window
from protosam.volume_io import READABLE_ENDINGS, read_volume

MAX_LOOSE_FILES = 20_000
"""A folder with more files is not looked through; series have a few hundred."""


@dataclass(frozen=True, eq=False)
class Opened:
    """A volume as it was read, with what the page says about it."""

    name: str
    """What the picker shows."""
    volume: Volume
    """Voxels of a type that VTK holds, in one piece of memory."""
    window: Window
    """To show it with at first."""
    note: str = ""
    """A sentence about a choice that was made, or empty."""
    patient: str = field(default="", repr=False)
    """Identifier in the header of a DICOM series; empty = nothing tells whose image it is."""


def open_path(path: Path, *, name: str = "", unpack: Callable[[Path], Path]) -> Opened:
    """Read a file, a folder or an archive.

    Parameters
    ----------
    path : Path
    name : str, optional
        For the picker, instead of the file's own.
    unpack : callable
        Gets an archive and returns the folder with its files.

    Raises
    ------
    UnreadableFile
        There is nothing that can be read.
    InvalidInput
        It is no scalar volume, or its geometry cannot be trusted.
    StorageFailure
        There is no room to unpack it.
    """
    if path.is_dir():
        return _open_folder(path, name or path.name)
    if path.name.lower().endswith(".zip"):
        return _open_folder(unpack(path), name or path.stem)
    if _is_dicom(path):
        return _open_series([path], name or path.stem)
    return shown(read_volume(path), name or _stem(path))


def shown(volume: Volume, name: str, note: str = "") -> Opened:
    """Make a volume ready to be shown."""
    voxels = _for_vtk(volume.voxels)
    ready = volume if voxels is volume.voxels else Volume(voxels, volume.affine, volume.uid)
    return Opened(name, ready, auto_window(voxels), note)


def _open_folder(folder: Path, name: str) -> Opened:
    """One image file, an image with its data file beside it, or a DICOM series."""
    files = _files(folder)
    images = [one for one in files if _stem(one) != one.name and not one.name.startswith(".")]
    if len(images) == 1:
        return shown(read_volume(images[0]), name or _stem(images[0]))
    if images:
        raise InvalidInput(
            f"There are {len(images)} images in it, wanted one.", "Open one of the files by itself."
        )
    return _open_series(files, name)


def _open_series(files: Sequence[Path], name: str) -> Opened:
    """Open the largest series; what is wrong with it is not hidden by opening a smaller one."""
    found = find_series(Files(tuple(files))).series
    images = [one for one in found if one.kind == "image"]
    if not found:
        raise UnreadableFile(
            "None of the files there is an image that can be read.",
            "Choose NIfTI, NRRD or MetaImage files, or the folder of a DICOM series.",
        )
    largest = max(images or found, key=lambda one: len(one.paths))
    read = read_series(largest)
    notes = list(read.notes)
    if len(images) > 1:
        notes.insert(
            0,
            f"There are {len(images)} series in it; the largest one was opened, "
            f"with {len(read.volume.voxels)} slices.",
        )
    return replace(shown(read.volume, name, " ".join(notes)), patient=_patient_of(read))


def _patient_of(read: SeriesVolume) -> str:
    """Read whose image it is from the first slice's header; empty where that does not say."""
    first = replace(read, frames=read.frames[:1]).source_headers()[0]
    with quiet_headers():
        return str(first.get("PatientID", "") or "").strip()


def _files(folder: Path) -> list[Path]:
    files: list[Path] = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            files.append(path)
        if len(files) > MAX_LOOSE_FILES:
            raise InvalidInput(
                f"There are more than {MAX_LOOSE_FILES} files in that folder.",
                "Open the folder of one study.",
            )
    if not files:
        raise UnreadableFile("There are no files in it.", "Choose a folder with an image.")
    return files


def _is_dicom(path: Path) -> bool:
    """Whether a file says of itself that it is DICOM, or has no ending that we know."""
    if not path.is_file() or _stem(path) != path.name:
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _stem(path: Path) -> str:
    """File name without an ending that we know; the whole name if there is none."""
    lower = path.name.lower()
    ending = max((one for one in READABLE_ENDINGS if lower.endswith(one)), key=len, default="")
    return path.name[: len(path.name) - len(ending)] if ending else path.name


def _for_vtk(voxels: VoxelArray) -> VoxelArray:
    """Voxels in one piece of memory, of a type that VTK has."""
    if voxels.dtype == np.bool_:
        voxels = voxels.astype(np.uint8)
    elif voxels.dtype == np.float16:
        voxels = voxels.astype(np.float32)
    native = voxels.astype(voxels.dtype.newbyteorder("="), copy=False)
    return np.ascontiguousarray(native)
