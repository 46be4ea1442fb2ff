"""How long the host's thread is held up by one answer, on a volume of 512x512x400 voxels.

Times are the process's own processor time: other processes share the machines that tests run on.
"""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest

from protosam.extents import Extent, pack_bits
from protosam.intensity import Window
from protosam.wire.messages import Result

SHAPE = (400, 512, 512)
LIMIT_S = 0.05


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
def test_an_answer_is_written_within_fifty_milliseconds(desks, masked):
    desk = desks(shape=SHAPE, voxels=np.zeros(SHAPE, np.int16))
    organs = [organ(radius) for radius in (38, 42, 36, 40)]

    def answer(request):
        crop = organs[len(request.prompts.points) % len(organs)]
        start = (150, 150, 150)
        extent = Extent(start, tuple(a + n for a, n in zip(start, crop.shape, strict=True)))
        return Result(
            request.volume_uid,
            request.target,
            request.generation,
            extent,
            pack_bits(crop),
            0.9,
            {},
            0,
            Window(0.0, 1.0),
            "fake",
            "0123",
            {"total": 0.1},
            (),
        )

    desk.client.answer = answer
    if masked:
        other = np.zeros(SHAPE, bool)
        other[:, :, :170] = True
        desk.scene.paint("b", other, undo=False)
        modes = desk.scene.mrml.vtkMRMLSegmentationNode
        desk.scene.editor.SetMaskMode(modes.EditAllowedOutsideAllSegments)
    clicks, writes = [], []
    for n in range(7):
        started = time.process_time()
        desk.click((170, 180, 180 + n), settle=False)
        clicks.append(time.process_time() - started)
        started = time.process_time()
        desk.controller.drain()
        writes.append(time.process_time() - started)
    assert desk.scene.mask("a").any()
    # The second best of seven: shared caches slow down even the processor's own time.
    assert sorted(writes)[1] < LIMIT_S, writes
    assert sorted(clicks)[1] < LIMIT_S, clicks


def organ(radius):
    """An ellipsoid like a liver, up to 84 x 168 x 168 voxels."""
    grid = np.ogrid[: 2 * radius, : 4 * radius, : 4 * radius]
    sides = (radius, 2 * radius, 2 * radius)
    return sum(((g - s + 0.5) / s) ** 2 for g, s in zip(grid, sides, strict=True)) <= 1


def test_the_scene_side_is_imported_quickly_and_without_torch_or_scipy():
    code = (
        "import numpy, vtkmodules.util.numpy_support, vtkmodules.vtkCommonMath, sys, time\n"
        "started = time.process_time()\n"
        "import protosam.scene\n"
        "took = time.process_time() - started\n"
        "heavy = {'torch', 'scipy', 'SimpleITK', 'slicer', 'qt'} & set(sys.modules)\n"
        "print(took, sorted(heavy))\n"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(3)
    ]
    took = min(float(run.stdout.split()[0]) for run in runs)
    assert took < 0.3
    assert all(run.stdout.split()[1] == "[]" for run in runs)
