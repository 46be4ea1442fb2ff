"""Measures the page: from the command to a page, from a click to the picture, and its memory.

A volume of 512x512x200 voxels is made from the phantom, opened by the real command and clicked in
by Debian's Chromium. A click counts as answered when the colour of the segment is in the picture
that the browser shows. Between two clicks the first is undone, so the embedding is ready.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np
import psutil
from playwright.sync_api import Page, sync_playwright
from scipy import ndimage

from protosam.cli.screen import results
from protosam.phantom import make_phantom

CHROMIUM = "/usr/bin/chromium"
SHAPE = (200, 512, 512)
CLICKS = 20

WATCH = """() => {
  const image = document.querySelector('#ps-axial img');
  const canvas = document.createElement('canvas');
  canvas.width = 120; canvas.height = 90;
  const context = canvas.getContext('2d', {willReadFrequently: true});
  window.coloured = () => {
    context.drawImage(image, 0, 0, 120, 90);
    const data = context.getImageData(0, 0, 120, 90).data;
    let count = 0;
    for (let n = 0; n < data.length; n += 4) {
      const rgb = data.slice(n, n + 3);
      if (Math.max(...rgb) - Math.min(...rgb) > 25) count++;
    }
    return count;
  };
  window.answered = () => new Promise(done => {
    const before = window.coloured();
    let start = 0;
    const begin = () => { start = performance.now(); };
    document.addEventListener('pointerdown', begin, {once: true, capture: true});
    const look = () => {
      if (start && window.coloured() > before + 60) done(performance.now() - start);
      else setTimeout(look, 4);
    };
    look();
  });
}"""


def state(page: Page, name: str) -> object:
    """Value of the page's state."""
    return page.evaluate("name => window.trame.state.get(name)", name)


def wait(page: Page, condition: str) -> None:
    """Wait until an expression of `get(name)` holds."""
    script = f"() => {{ const get = name => window.trame.state.get(name); return {condition} }}"
    page.wait_for_function(script, timeout=240_000, polling=50)


def act(page: Page, *arguments: object) -> None:
    """Ask the page for an action."""
    page.evaluate("rest => window.protosam.act(...rest)", list(arguments))


def make_volume(folder: Path) -> tuple[Path, tuple[int, int, int]]:
    """Write the phantom at the size of a CT; return its file and a voxel in the liver."""
    phantom = make_phantom()
    zoom = [n / m for n, m in zip(SHAPE, phantom.volume.shape_kji, strict=True)]
    voxels = ndimage.zoom(phantom.volume.voxels, zoom, order=1)
    path = folder / "ct.nii"
    nibabel.save(nibabel.Nifti1Image(voxels.T, np.diag([-0.7, -0.7, 0.8, 1.0])), path)
    k, j, i = (round(n * z) for n, z in zip(phantom.clicks[0][0], zoom, strict=True))
    return path, (k, j, i)


def time_click(page: Page, xy: tuple[float, float]) -> float:
    """Milliseconds from a click to the segment in the picture."""
    waiting = page.evaluate_handle("() => { window.taken = window.answered(); }")
    page.mouse.click(*xy)
    took = float(page.evaluate("() => window.taken"))
    waiting.dispose()
    wait(page, "!get('busy') && get('prompts').length === 1")
    return took


def place(page: Page, kji: tuple[int, int, int]) -> tuple[float, float]:
    """Where a voxel is in the axial view."""
    box = page.locator("#ps-axial").bounding_box() or {}
    pixels, voxels = [], []
    for x, y in ((0.45, 0.4), (0.6, 0.4), (0.45, 0.6)):
        pixels.append((box["x"] + x * box["width"], box["y"] + y * box["height"]))
        page.mouse.move(*pixels[-1])
        page.wait_for_timeout(500)
        found = re.search(r"voxel (\d+), (\d+), (\d+)", str(state(page, "readout")))
        voxels.append([int(one) for one in found.groups()][1:] if found else [0, 0])
    fit = np.linalg.lstsq(np.c_[np.array(voxels), np.ones(3)], np.array(pixels), rcond=None)[0]
    x, y = np.array([*kji[1:], 1.0]) @ fit
    return float(x), float(y)


def measure(page: Page, kji: tuple[int, int, int]) -> None:
    """Click and tell."""
    act(page, "scope:slice")
    act(page, "linked")  # without the crosshair, colour means segment
    act(page, "set_slice", "axial", kji[0])
    page.wait_for_timeout(2000)
    xy = place(page, kji)
    page.evaluate(WATCH)
    ready, fresh = [], []
    for n in range(CLICKS + 1):
        ready.append(time_click(page, (xy[0] + n % 5 * 3, xy[1] + n % 4 * 3)))
        act(page, "undo")
        wait(page, "get('prompts').length === 0")
        page.wait_for_timeout(300)
    for n in range(6):
        act(page, "set_slice", "axial", kji[0] - 45 + 13 * n)
        wait(page, f"get('plane_axial').index === {kji[0] - 45 + 13 * n}")
        fresh.append(time_click(page, xy))
        act(page, "undo")
        wait(page, "get('prompts').length === 0")
    told = results()
    for name, took in (("embedding ready", ready[1:]), ("first click on a slice", fresh)):
        told.print(
            f"{name}: median {statistics.median(took):.0f} ms of {len(took)}, "
            f"{min(took):.0f} to {max(took):.0f}"
        )


def memory_text(process: psutil.Process) -> str:
    """Tell the memory of the page's process and of its worker, in 10^6 bytes."""
    worker = next(one for one in process.children() if "protosam.worker" in one.cmdline())
    sizes = [one.memory_full_info() for one in (process, worker)]
    page, work = (one.rss / 1e6 for one in sizes)
    both = sum(one.pss for one in sizes) / 1e6
    return f"page {page:.0f} MB, worker {work:.0f} MB; together {both:.0f} MB, shared pages once"


def main() -> None:
    """Start, click, end."""
    told = results()
    with tempfile.TemporaryDirectory() as folder:
        path, kji = make_volume(Path(folder))
        begun_s = time.monotonic()
        command = [sys.executable, "-m", "protosam", "app", "--no-browser", str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as served:
            try:
                line = served.stdout.readline() if served.stdout else ""
                told.print(f"address after {time.monotonic() - begun_s:.1f} s")
                with sync_playwright() as playwright:
                    arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
                    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
                    page = browser.new_page(viewport={"width": 1280, "height": 800})
                    page.goto(line.split()[-1])
                    page.wait_for_selector("#ps-axial img[src^='blob:']", timeout=60_000)
                    wait(page, "get('can_undo') !== undefined && get('segments').length === 1")
                    told.print(f"clickable after {time.monotonic() - begun_s:.1f} s")
                    wait(page, "get('worker') === 'ready'")
                    told.print(f"model ready after {time.monotonic() - begun_s:.1f} s")
                    measure(page, kji)
                    told.print(memory_text(psutil.Process(served.pid)))
                    act(page, "scope:volume")
                    page.mouse.click(*place(page, kji))
                    page.wait_for_timeout(1000)
                    wait(page, "!get('busy')")
                    told.print(f"after a whole object: {memory_text(psutil.Process(served.pid))}")
                    browser.close()
            finally:
                served.terminate()


if __name__ == "__main__":
    main()
