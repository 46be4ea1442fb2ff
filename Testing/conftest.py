"""Fixtures and settings that all tests share."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from protosam.geometry import Volume

settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests of passing time further attempts: other programs take the processor at times.

    What they limit takes a tenth of the limit on a machine that does nothing else. A limit that no
    attempt keeps still fails.
    """
    for item in items:
        if item.get_closest_marker("wall_clock"):
            item.add_marker(pytest.mark.flaky(reruns=3, reruns_delay=2))


GL_PROBE = (
    "import vtkmodules.vtkRenderingOpenGL2\n"
    "from vtkmodules.vtkRenderingCore import vtkRenderWindow\n"
    "window = vtkRenderWindow()\n"
    "window.SetOffScreenRendering(1)\n"
    "window.SetSize(16, 16)\n"
    "window.Render()\n"
)


@pytest.fixture(scope="session")
def opengl() -> None:
    """Skips where nothing can be rendered; VTK ends the process there, so a child tries it."""
    os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")
    probe = subprocess.run([sys.executable, "-c", GL_PROBE], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("no OpenGL: install libegl1 and libgl1-mesa-dri")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real images with labels beside the repository; absent on most machines."""
    given = os.environ.get("PROTOSAM_SHARED")
    root = Path(given) if given else Path(__file__).resolve().parents[1].parent / "shared"
    data = root / "data"
    if not data.is_dir():
        pytest.skip(f"no real data at {data}")
    return data


@pytest.fixture
def a_volume() -> Volume:
    """A small int16 image on an oblique, anisotropic grid with a left-handed index order."""
    rng = np.random.default_rng(7)
    angle = np.radians(20)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-0.8, -1.1, 2.5])
    affine[:3, 3] = (31.0, -12.5, 140.0)
    voxels = rng.integers(-1000, 1500, size=(9, 12, 14)).astype(np.int16)
    return Volume(voxels, affine)


@pytest.fixture
def a_full_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB; only root on Linux can make one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    order = [str(mount), "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if mount is None or subprocess.run(order, capture_output=True, check=False).returncode:
        pytest.skip("no permission to mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)
