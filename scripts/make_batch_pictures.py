"""Makes the picture of a batch in Resources/Screenshots: phantoms, and the real commands.

Needs Debian's chromium, as `make_screenshots.py` does. It shows computed phantoms only.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import SimpleITK
from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import batch_study  # noqa: E402 (lies beside the benchmarks)

from protosam.itk_grid import set_image_affine  # noqa: E402
from protosam.phantom import make_phantom  # noqa: E402
from protosam.seg_nrrd import Segment, write_segmentation  # noqa: E402

FOLDER = ROOT / "Resources" / "Screenshots"
CHROMIUM = "/usr/bin/chromium"
ORGANS = ("liver", "left kidney")
SEEDS = [31, 32, 33, 34]
SIZE = {"width": 1100, "height": 900}
COLOURS = 128


def protosam(*words: str | Path) -> None:
    """Run a command; what it finds doubtful or refuses is no failure here."""
    subprocess.run([sys.executable, "-m", "protosam", *map(str, words)], check=True)


def finished_case(folder: Path) -> tuple[Path, Path]:
    """Write the demo's phantom with two finished organs."""
    phantom = make_phantom()
    image = SimpleITK.GetImageFromArray(phantom.volume.voxels)
    set_image_affine(image, phantom.volume.affine)
    SimpleITK.WriteImage(image, str(folder / "finished.nii.gz"))
    segments = [Segment(organ, phantom.mask(organ)) for organ in ORGANS]
    write_segmentation(folder / "finished.seg.nrrd", segments, phantom.volume)
    return folder / "finished.nii.gz", folder / "finished.seg.nrrd"


def main() -> None:
    """Teach, segment, and take the picture of the report."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image, finished = finished_case(folder)
        example = folder / "organs.psexample"
        protosam("example", "make", image, finished, "-o", example)
        batch_study.write_study(folder / "study", SEEDS, missing=20)
        protosam("batch", folder / "study", "-o", folder / "out", "--example", example)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page(viewport=SIZE)
            page.goto((folder / "out" / "report.html").as_uri())
            path = FOLDER / "batch-report.png"
            page.screenshot(path=path)
            browser.close()
        # Flat colours and grey slices: a palette takes a third of the bytes.
        with Image.open(path) as picture:
            picture.convert("RGB").quantize(COLOURS).save(path, optimize=True)


if __name__ == "__main__":
    main()
