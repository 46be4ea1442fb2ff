"""Makes the pictures in Resources/Screenshots: the page with the practice volume, at work.

Needs Debian's chromium and the real command; `make screenshots` sets both up. The pictures hold the
computed phantom only, never an image of a patient.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from playwright.sync_api import Page, sync_playwright

from protosam.phantom import Phantom, make_phantom

FOLDER = Path(__file__).resolve().parents[1] / "Resources" / "Screenshots"
CHROMIUM = "/usr/bin/chromium"
SIZE = {"width": 1280, "height": 800}
ANSWER_MS = 120_000

ORGANS = (("liver", "#f2a65a"), ("spleen", "#9b7bff"), ("right kidney", "#4fc3a1"))
"""Organs to segment, with their colours."""


def wait(page: Page, condition: str) -> None:
    """Wait until an expression of `get(name)` holds."""
    script = f"() => {{ const get = name => window.trame.state.get(name); return {condition} }}"
    page.wait_for_function(script, timeout=ANSWER_MS, polling=100)


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


def main() -> None:
    """Start the page, play, end it."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "protosam", "app", "--no-browser"]
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
                play(page)
                browser.close()
        finally:
            served.terminate()


if __name__ == "__main__":
    main()
