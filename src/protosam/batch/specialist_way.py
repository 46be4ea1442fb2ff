"""A specialist in a batch: a small network that finds its structures without a click.

Owns the way from a specialist's findings to segments with confidences. It knows volumes, nothing of
files of a series. Masks are (k, j, i).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from protosam import __version__
from protosam.batch.finding import Case, FoundSegment
from protosam.dicom.write import Algorithm
from protosam.models.load import choose_device
from protosam.models.specialist import load_specialist
from protosam.models.weights import file_digest
from protosam.seg_nrrd import Segment


class SpecialistFinder:
    """A specialist that was loaded; a `Finder`.

    Parameters
    ----------
    path : Path
        Its file.
    device : str
        ``auto``, ``cpu``, ``cuda`` ...
    wants : (name) -> bool
        Whether a structure is to be segmented.
    """

    def __init__(self, path: Path, device: str, wants: Callable[[str], bool]) -> None:
        self._specialist = load_specialist(path, choose_device(device))
        self._digest, self._wants = file_digest(path), wants

    @property
    def algorithm(self) -> Algorithm:
        """Who found the segments."""
        return Algorithm("ProtoSAM specialist", __version__, self._digest, kind="AUTOMATIC")

    def find(self, case: Case) -> list[FoundSegment]:
        """Look for all structures in one volume.

        Raises
        ------
        InvalidInput
            The image shows nothing.
        """
        return [
            FoundSegment(
                Segment(one.name, one.mask),
                one.confidence,
                one.slices,
                () if one.mask.any() else ("The object does not seem to be in the image.",),
            )
            for one in self._specialist.find(case.volume)
            if self._wants(one.name)
        ]
