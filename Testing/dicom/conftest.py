"""Fixtures of the DICOM tests; the phantoms are in `phantom_series.py`."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent


def _load_by_path(name: str) -> None:
    # Test folders are no packages, so a file beside a test is loaded by its path.
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


for _name in ("phantom_series", "dicom_tools"):
    if _name not in sys.modules:
        _load_by_path(_name)

from dicom_tools import catalogue_of  # noqa: E402
from phantom_series import Layout, write_series  # noqa: E402

from protosam.dicom.read import SeriesVolume, read_series  # noqa: E402
from protosam.dicom.write import Algorithm  # noqa: E402
from protosam.seg_nrrd import Segment  # noqa: E402


@pytest.fixture
def an_algorithm() -> Algorithm:
    return Algorithm("ProtoSAM tiny", "0.9", "a1" * 32, "b2" * 32)


@pytest.fixture
def a_series(tmp_path: Path) -> SeriesVolume:
    """A CT of six slices, read."""
    write_series(tmp_path / "series", Layout())
    (row,) = catalogue_of(tmp_path / "series").series
    return read_series(row)


@pytest.fixture
def two_organs() -> Callable[..., list[Segment]]:
    """Masks with an empty slice before, between and behind."""

    def make(shape: tuple[int, int, int], *, overlapping: bool = True) -> list[Segment]:
        rng = np.random.default_rng(3)
        kidney, liver = np.zeros(shape, bool), np.zeros(shape, bool)
        kidney[1, 2:7, 3:8] = rng.random((5, 5)) > 0.4
        kidney[3, 1, 1] = kidney[3, -1, -1] = True
        liver[2:4, 1:5, 2:9] = rng.random((2, 4, 7)) > 0.3
        if overlapping:
            liver[1, 4, 4:8] = kidney[1, 4, 4] = True
        else:
            liver &= ~kidney
        return [Segment("left kidney", kidney), Segment("Liver", liver)]

    return make
