"""A series found becomes a volume, with the source of each of its slices.

Rules
-----
* Voxels are (k, j, i), k along the normal of the slices; the affine is RAS. What is read from here
  on knows nothing of LPS.
* A tilted or uneven series is read only when it is asked to be straightened, and says so.
* Nothing is written, least of all to the source.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from protosam.dicom.find import FoundSeries, SeriesIdentity
from protosam.dicom.frames import Frame
from protosam.dicom.pixels import modality_values
from protosam.dicom.quiet import quiet_headers
from protosam.dicom.stacks import Stack
from protosam.dicom.straighten import straight_grid, straightened
from protosam.errors import InvalidInput, OutOfMemory, UnreadableFile
from protosam.geometry import Volume


@dataclass(frozen=True, eq=False)
class SeriesVolume:
    """A volume and the series that it came from."""

    volume: Volume
    """Modality values (HU on CT) on a right-angled grid."""
    identity: SeriesIdentity
    """Which series."""
    frames: tuple[Frame, ...]
    """Source slices in order; slice k of the volume unless it was straightened."""
    is_straightened: bool = False
    """Its slices lie on a grid of their own, between the source's."""
    notes: tuple[str, ...] = ()
    """What a user should know of it."""

    def source_headers(self) -> list[Dataset]:
        """Headers of the source files in order of the slices, each file once, without pixels.

        Read afresh, so nobody can change what was read.

        Raises
        ------
        UnreadableFile
            The files are gone, as those of an archive that was closed.
        """
        paths = dict.fromkeys(frame.path for frame in self.frames)
        try:
            with quiet_headers():
                return [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]
        except OSError as error:
            raise UnreadableFile(
                f"The files of series {self.identity.series_uid} are no longer there.",
                "Keep the folder or archive open until its results are written.",
            ) from error


def read_series(found: FoundSeries, *, straighten: bool = False) -> SeriesVolume:
    """Read the pixels of one series.

    Parameters
    ----------
    found : FoundSeries
        A row of `find.find_series`.
    straighten : bool
        Resample a tilted or uneven series to right angles instead of refusing it.

    Raises
    ------
    InvalidInput
        The row is refused, and straightening is not asked for or cannot help; the message is the
        row's reason.
    UnreadableFile
        Pixels that cannot be decoded.
    OutOfMemory
        They do not fit into the memory.
    """
    stack = found.stack
    if stack is None or not (found.is_taken or (straighten and found.can_straighten)):
        reason = found.reason or f"A series of the kind {found.kind!r} holds no image."
        raise InvalidInput(reason, found.next_step or "Choose an image series.")
    values = modality_values(stack.frames)
    try:
        if found.is_taken:
            volume = Volume(np.stack(values), stack.affine)
            return SeriesVolume(volume, found.identity, stack.frames, notes=found.notes)
        grid = straight_grid(stack)
        voxels = straightened(stack, values, grid)
    except MemoryError as error:
        raise OutOfMemory(
            "The series does not fit into the memory.", "Close other programs."
        ) from error
    notes = (*found.notes, _straightening(stack, voxels.shape))
    return SeriesVolume(Volume(voxels, grid.affine), found.identity, stack.frames, True, notes)


def _straightening(stack: Stack, shape: tuple[int, ...]) -> str:
    return (
        f"The gantry was tilted by {stack.tilt_degrees:.1f} degrees, and {len(stack.frames)} "
        f"slices became {shape[0]} slices of {shape[1]} x {shape[2]} pixels by resampling."
    )
