"""Makes the pictures in Resources/Screenshots: the page with the practice volume, at work.

Needs Debian's chromium and the real command; `make screenshots` sets both up. The pictures hold the
computed phantom only, never an image of a patient. The adapter in the last one is really taught,
which takes some minutes; it is kept in a folder that goes afterwards. The arguments ``browser`` and
``adapt`` make a part of the pictures.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from protosam.cases.corrected import CorrectedCase, CorrectedSegment
from protosam.cases.manifest import MANIFEST
from protosam.cases.roles import Role, patient_hash, role_of
from protosam.cases.saved import CaseFolder
from protosam.geometry import Volume, spacing_kji_mm
from protosam.morphology import eroded
from protosam.phantom import Phantom, make_phantom

FOLDER = Path(__file__).resolve().parents[1] / "Resources" / "Screenshots"
CHROMIUM = "/usr/bin/chromium"
SIZE = {"width": 1280, "height": 800}
TALL = {"width": 1280, "height": 1040}
"""The whole section of adapters."""

ANSWER_MS = 120_000
TEACHING_MS = 1_800_000
GREYS = 32

ORGANS = (("liver", "#f2a65a"), ("spleen", "#9b7bff"), ("right kidney", "#4fc3a1"))
"""Organs to segment, with their colours."""


RIM_MM = 6.0
"""The protocol that is taught: organs without their rim."""

BRIGHTEST_HU = 300.0
"""What is black in images that are grey as on MR: bone; air is black, too."""

PATIENTS: tuple[tuple[Role, tuple[int, ...]], ...] = (
    ("train", (1, 2)),
    ("train", (3,)),
    ("held-out", (4,)),
    ("train", (5,)),
)
"""What each is for, and the seeds of its phantoms."""


def wait(page: Page, condition: str, timeout_ms: float = ANSWER_MS) -> None:
    """Wait until an expression of `get(name)` holds."""
    script = f"() => {{ const get = name => window.trame.state.get(name); return {condition} }}"
    page.wait_for_function(script, timeout=timeout_ms, polling=100)


def act(page: Page, *arguments: object) -> None:
    """Ask the page for an action."""
    page.evaluate("rest => window.protosam.act(...rest)", list(arguments))


def place_in_axial(page: Page, kji: tuple[int, int, int]) -> tuple[float, float]:
    """Where a voxel is in the axial view, found by what the readout says of three places."""
    box = page.locator("#ps-axial").bounding_box()
    if box is None:
        raise RuntimeError("The axial view is not there.")
    act(page, "set_slice", "axial", kji[0])
    pixels, voxels = [], []
    for x, y in ((0.4, 0.4), (0.6, 0.4), (0.4, 0.6)):
        pixels.append((box["x"] + x * box["width"], box["y"] + y * box["height"]))
        page.mouse.move(*pixels[-1])
        page.wait_for_timeout(300)
        found = re.search(r"voxel (\d+), (\d+), (\d+)", page.locator("#ps-readout").inner_text())
        if found is None:
            raise RuntimeError("The readout shows no voxel.")
        voxels.append([int(one) for one in found.groups()][1:])
    across = np.linalg.lstsq(np.c_[np.array(voxels), np.ones(3)], np.array(pixels), rcond=None)[0]
    x, y = np.array([*kji[1:], 1.0]) @ across
    return float(x), float(y)


def thick_of(phantom: Phantom, organ: str) -> tuple[int, int, int]:
    """Voxel in the middle of an organ's largest slice."""
    mask = phantom.mask(organ)
    k = int(mask.sum(axis=(1, 2)).argmax())
    places = np.argwhere(mask[k])
    nearest = np.abs(places - places.mean(axis=0)).sum(axis=1).argmin()
    j, i = places[nearest].tolist()
    return k, j, i


def take(page: Page, name: str) -> None:
    """Keep a picture."""
    page.wait_for_timeout(1200)
    page.screenshot(path=FOLDER / f"{name}.png")


def play(page: Page) -> None:
    """Segment some organs and look at the page from all sides."""
    phantom = make_phantom()
    wait(page, "get('worker') === 'ready' && get('segments').length === 1")
    page.wait_for_selector("#ps-axial img[src^='blob:']")
    take(page, "browser-first")
    for number, (organ, colour) in enumerate(ORGANS):
        if number:
            page.keyboard.press("n")
            wait(page, f"get('segments').length === {number + 1}")
        segment = page.evaluate("window.trame.state.get('segment_id')")
        act(page, "rename", segment, organ.capitalize())
        act(page, "colour", segment, colour)
        page.mouse.click(*place_in_axial(page, thick_of(phantom, organ)))
        page.wait_for_timeout(400)
        wait(page, f"!get('busy') && get('surface_count') === {number + 1}")
    act(page, "set_slice", "axial", thick_of(phantom, "spleen")[0])
    take(page, "browser-segments")
    page.keyboard.press("?")
    take(page, "browser-keys")
    page.keyboard.press("Escape")
    page.wait_for_timeout(400)
    act(page, "enlarge", "axial")
    take(page, "browser-axial")


def as_mr(phantom: Phantom) -> Volume:
    """Image in which fat is bright, organs are grey, bone and air are black."""
    values = phantom.volume.voxels.astype(np.float32)
    turned = np.where(values < -500, 0, np.clip(BRIGHTEST_HU - values, 0, None))
    return Volume(turned.astype(np.int16), phantom.volume.affine)


def keep_cases(folder: Path) -> None:
    """Keep phantoms whose livers were finished by another protocol than the model's."""
    kept = CaseFolder.create(folder)
    salt = json.loads((folder / MANIFEST).read_text())["salt"]
    keys = map(str, count())
    for role, seeds in PATIENTS:
        patient = next(key for key in keys if role_of(patient_hash(key, salt)) == role)
        for seed in seeds:
            made = make_phantom(seed=seed)
            spacing = spacing_kji_mm(made.volume.affine)
            liver = eroded(made.mask("liver"), RIM_MM, spacing)
            case = CorrectedCase(as_mr(made), (CorrectedSegment("Liver without rim", liver),))
            kept.save(case, patient=patient)


def adapt(page: Page) -> None:
    """Teach an adapter, and look at the verdict."""
    page.set_viewport_size(TALL)
    folder = Path(os.environ["XDG_DATA_HOME"]) / "cases"
    keep_cases(folder)
    wait(page, "get('worker') === 'ready' && get('segments').length === 1")
    page.wait_for_selector("#ps-axial img[src^='blob:']")
    page.click("#ps-adapt .ps-fold")
    page.fill("#ps-adapt-folder", str(folder))
    page.press("#ps-adapt-folder", "Enter")
    page.fill("#ps-adapt-name", "without-rim")
    wait(page, "get('adapt_can_start')")
    page.click("#ps-adapt-start")
    wait(page, "get('adapt_verdict') && get('adapt_versions').length", TEACHING_MS)
    verdict = page.evaluate("window.trame.state.get('adapt_verdict')")
    if not verdict["accepted"]:
        raise RuntimeError(f"There is nothing to show: {verdict['reason']}")
    act(page, "close_alert", 0)
    page.locator("#ps-adapt").evaluate("one => one.scrollIntoView({block: 'start'})")
    take(page, "app-adapt")
    shrink(FOLDER / "app-adapt.png")


def write_image(volume: Volume) -> Path:
    """Write a volume as NIfTI, for the page to open."""
    path = Path(os.environ["XDG_DATA_HOME"]) / "Practice volume.nii.gz"
    nibabel.save(nibabel.Nifti1Image(volume.voxels.transpose(2, 1, 0), volume.affine), path)
    return path


def shrink(path: Path) -> None:
    """Write a picture with few colours, which noise makes large otherwise."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    # By coverage, because the most frequent colours are all grey; and greys for the noise.
    method, none = Image.Quantize.MAXCOVERAGE, Image.Dither.NONE
    colours = image.quantize(255 - GREYS, method=method).getpalette() or []
    greys = [level for n in range(GREYS) for level in [round(255 * n / (GREYS - 1))] * 3]
    palette = Image.new("P", (1, 1))
    palette.putpalette(colours[: 3 * (255 - GREYS)] + greys)
    image.quantize(palette=palette, dither=none).save(path, optimize=True)


PLAYS: dict[str, Callable[[Page], None]] = {"browser": play, "adapt": adapt}


def make(name: str) -> None:
    """Start the page, play, end it."""
    command = [sys.executable, "-m", "protosam", "app", "--no-browser"]
    if name == "adapt":
        command.append(str(write_image(as_mr(make_phantom()))))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as served:
        try:
            line = served.stdout.readline() if served.stdout else ""
            address = line.split()[-1]
            with sync_playwright() as playwright:
                arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
                browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
                page = browser.new_page(viewport=SIZE)
                page.goto(address)
                page.wait_for_function("window.trame?.state?.get('chip')")
                PLAYS[name](page)
                browser.close()
        finally:
            served.terminate()


def main() -> None:
    """Make the pictures that were asked for."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[1:] or list(PLAYS):
        with tempfile.TemporaryDirectory(prefix="protosam-") as home:
            os.environ["XDG_DATA_HOME"] = home  # adapters of whoever runs this stay out of it
            make(name)


if __name__ == "__main__":
    main()
