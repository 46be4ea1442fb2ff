"""Fixtures of the batch tests: phantoms from the DICOM tests, and a way without a model."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
# Started processes import the way by its name, and get this path from here.
sys.path.insert(0, str(HERE))
if "phantom_series" not in sys.modules:
    spec = importlib.util.spec_from_file_location(
        "phantom_series", HERE.parent / "dicom" / "phantom_series.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["phantom_series"] = module
    spec.loader.exec_module(module)

from phantom_series import Ids, Layout, write_series  # noqa: E402

from protosam.geometry import Volume  # noqa: E402

PATIENT = "Mustermann^Erika"


@pytest.fixture
def a_study(tmp_path: Path) -> Path:
    """Three CT series of one study."""
    ids = Ids.new()
    for n in range(3):
        write_series(
            tmp_path / "study" / f"s{n}",
            Layout(origin=(-31.5, 12.25, 40.0 + 5 * n)),
            ids.other_series(),
            change=named,
        )
    return tmp_path / "study"


def named(_n: int, dataset) -> None:
    """Give a slice what must never be seen."""
    dataset.PatientName, dataset.PatientID = PATIENT, "PID-4711"


@pytest.fixture
def a_ball() -> Volume:
    """A bright ball of 8 mm in the dark, on a grid of 24 voxels of 1.5 mm."""
    places = np.indices((24, 24, 24)) - 12
    noise = np.random.default_rng(5).normal(0, 4, (24, 24, 24))
    voxels = np.where((places**2).sum(axis=0) < 30, 120, 20) + noise
    affine = np.diag([1.5, 1.5, 1.5, 1.0])
    affine[:3, 3] = (-20.0, 10.0, 30.0)
    return Volume(voxels.astype(np.float32), affine)
