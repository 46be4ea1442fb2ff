"""The page in a real browser: the real command, the real worker, Debian's Chromium."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

CHROMIUM = "/usr/bin/chromium"
CHROMIUM_ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
ANSWER_MS = 60_000
PROGRAM = ("-m", "protosam", "app", "--no-browser")


def pytest_collection_modifyitems(items):
    # trame-rca reads the wall clock through a module of its own that warns when pytest watches it.
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore::DeprecationWarning"))


@pytest.fixture(scope="session")
def gl(request):
    """Skips where the page's views cannot be rendered."""
    pytest.importorskip("trame_slicer")
    request.getfixturevalue("opengl")


class Served:
    """One run of `protosam app`, or of a program like it."""

    def __init__(self, *arguments, folder, program=PROGRAM):
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        self.log = folder / "app.log"
        environment = {**os.environ, "TMPDIR": str(self.temporary)}
        environment.pop("DISPLAY", None)
        self.started_s = time.monotonic()
        command = [sys.executable, *map(str, (*program, *arguments))]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
            )
        line = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/\?token=(\S+)", line)
        assert found, f"no address: {line!r}\n{self.log.read_text()}"
        self.address, self.port, self.token = found[0], int(found[1]), found[2]

    def worker(self):
        """The worker's process."""
        children = psutil.Process(self.process.pid).children()
        return next(one for one in children if "protosam.worker" in one.cmdline())

    def memory_mb(self):
        """Resident memory of both processes, shared pages once each."""
        both = [psutil.Process(self.process.pid), self.worker()]
        return sum(one.memory_full_info().uss for one in both) / 1e6

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(20)
        self.process.stdout.close()
        return code


@pytest.fixture(scope="session")
def serve(gl, tmp_path_factory):
    """Starts `protosam app`."""
    running = []

    def start(*arguments, **more):
        running.append(Served(*arguments, folder=tmp_path_factory.mktemp("app"), **more))
        return running[-1]

    yield start
    for one in running:
        one.stop()


@pytest.fixture(scope="session")
def served(serve):
    """One that most tests share."""
    return serve()


@pytest.fixture(scope="session")
def chromium():
    """Debian's browser."""
    if not Path(CHROMIUM).exists():
        pytest.skip(f"no {CHROMIUM}: apt-get install --no-install-recommends chromium")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=list(CHROMIUM_ARGUMENTS)
        )
        yield browser
        browser.close()


class Page:
    """The page as a user has it."""

    def __init__(self, page, served):
        self.page, self.served = page, served
        self.requests, self.faults, self._lenses = [], [], {}
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda fault: self.faults.append(str(fault)))

    def open(self):
        self.page.goto(self.served.address)
        self.ready()

    def ready(self):
        self.page.wait_for_function("window.trame?.state?.get('chip')", timeout=ANSWER_MS)
        self.page.wait_for_selector("#ps-axial img[src^='blob:']", timeout=ANSWER_MS)

    def state(self, name):
        return self.page.evaluate("name => window.trame.state.get(name)", name)

    def act(self, *arguments):
        self.page.evaluate("rest => window.protosam.act(...rest)", list(arguments))

    def until(self, condition, timeout_ms=ANSWER_MS):
        """Wait until an expression of `get(name)` holds."""
        script = f"() => {{ const get = name => window.trame.state.get(name); return {condition} }}"
        self.page.wait_for_function(script, timeout=timeout_ms, polling=50)

    def fresh_phantom(self):
        """Only the phantom, without a click in it; lenses go by its name."""
        self.page.keyboard.press("Escape")
        self.act("cancel")
        while self.state("volume_id"):
            count = len(self.state("volumes"))
            self.act("close_volume")
            self.until(f"get('volumes').length < {count}")
        for name in ("tool:inside", "scope:volume", "close_alert:0"):
            self.act(name)
        for name in ("smoothing_mm", "bodies"):
            self.act(name, "0")
        self.page.evaluate("window.trame.trigger('phantom')")
        self.until("get('segments').length === 1 && get('worker') === 'ready'")
        self.page.wait_for_timeout(300)

    def answered(self):
        """Wait for the answer to what was just done."""
        self.page.wait_for_timeout(150)
        self.until("!get('busy') && get('prompts').every(one => one.answered)")

    def box_of(self, view):
        return self.page.locator(f"#ps-{view}").bounding_box()

    def picture(self, view):
        """Pixels of a view, as its image has them now."""
        script = """view => {
          const image = document.querySelector(`#ps-${view} img`);
          const canvas = document.createElement('canvas');
          canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
          canvas.getContext('2d').drawImage(image, 0, 0);
          return canvas.toDataURL('image/png').split(',')[1];
        }"""
        png = io.BytesIO(base64.b64decode(self.page.evaluate(script, view)))
        with Image.open(png) as image:
            return np.asarray(image.convert("RGB")).astype(int)

    def voxel_at(self, view, x, y):
        """What the readout says of a place of a view, or None."""
        box, before = self.box_of(view), self.state("readout")
        self.page.mouse.move(box["x"] + x, box["y"] + y)
        for _ in range(60):  # it is the same only where nothing has moved
            if self.state("readout") not in (before, ""):
                break
            self.page.wait_for_timeout(25)
        found = re.search(r"voxel (-?\d+), (-?\d+), (-?\d+)", self.state("readout"))
        return tuple(map(int, found.groups())) if found else None

    def place_of(self, kji):
        """Where a voxel is in the axial view, from what the readout says of some places."""
        width, height = self.size("axial")
        chosen = self.state("volume_id")
        name = next(one["name"] for one in self.state("volumes") if one["id"] == chosen)
        key = (name, width, height)
        if key not in self._lenses:
            places = [(0.4, 0.4), (0.62, 0.4), (0.4, 0.62), (0.62, 0.62)]
            pixels = np.array([(x * width, y * height) for x, y in places])
            voxels = np.array([self.voxel_at("axial", *pixel)[1:] for pixel in pixels], float)
            self._lenses[key] = np.linalg.lstsq(
                np.c_[voxels, np.ones(len(voxels))], pixels, rcond=None
            )[0]
        return np.array([*kji[1:], 1.0]) @ self._lenses[key]

    def go_to(self, kji):
        """Show the slice of a voxel in the axial view; its place there."""
        self.act("set_slice", "axial", int(kji[0]))
        self.until(f"get('plane_axial').index === {int(kji[0])}")
        self.page.wait_for_timeout(100)
        return self.place_of(kji)

    def size(self, view):
        box = self.box_of(view)
        return box["width"], box["height"]

    def click(self, kji, *, control=False, wait=True):
        """Click on a voxel in the axial view."""
        x, y = self.go_to(kji)
        box = self.box_of("axial")
        known = len(self.state("prompts"))
        modifiers = ["Control"] if control else []
        for key in modifiers:
            self.page.keyboard.down(key)
        self.page.mouse.click(box["x"] + x, box["y"] + y)
        for key in modifiers:
            self.page.keyboard.up(key)
        self.until(f"get('busy') || get('prompts').length !== {known}")
        if wait:
            self.answered()

    def clicked(self):
        """Voxels of the points, as the list has them."""
        texts = [one["text"] for one in self.state("prompts") if one["kind"] == "point"]
        return [tuple(map(int, re.findall(r"-?\d+", text))) for text in texts]

    def drag(self, view, a, b, *, shift=False):
        box = self.box_of(view)
        if shift:
            self.page.keyboard.down("Shift")
        self.page.mouse.move(box["x"] + a[0], box["y"] + a[1])
        self.page.mouse.down()
        for part in (0.3, 0.7, 1.0):
            x, y = (a[n] + part * (b[n] - a[n]) for n in (0, 1))
            self.page.mouse.move(box["x"] + x, box["y"] + y)
            self.page.wait_for_timeout(40)
        self.page.mouse.up()
        if shift:
            self.page.keyboard.up("Shift")

    def save(self, form, folder):
        """Press Save and keep the file."""
        titles = {"seg": "Segmentation (.seg.nrrd)", "labelmap": "Labelmap (.nii.gz)"}
        self.until("get('has_mask')")
        self.page.click("#ps-save")
        with self.page.expect_download() as download:
            self.page.get_by_text(titles[form]).click()
        path = folder / download.value.suggested_filename
        download.value.save_as(path)
        return path

    def mask(self, folder):
        """Mask of the only segment, as the saved file has it."""
        from protosam.seg_nrrd import read_segmentation

        return read_segmentation(self.save("seg", folder)).segments[0].mask

    def upload(self, path):
        """Choose a file or a folder, as the Open menu does."""
        wants_folder = "true" if Path(path).is_dir() else "false"
        with self.page.expect_file_chooser() as chooser:
            self.page.evaluate(f"window.protosam.pick({wants_folder})")
        chooser.value.set_files(str(path))

    def alerts(self):
        return [f"{one['text']} {one['next_step']}" for one in self.state("alerts")]


@pytest.fixture
def open_page(chromium, served):
    """Opens the page in a new window of a new browser profile."""
    contexts = []

    def make(served=served, *, width=1280, height=800, context=None):
        if context is None:
            context = chromium.new_context(viewport={"width": width, "height": height})
            contexts.append(context)
        page = Page(context.new_page(), served)
        page.page.set_viewport_size({"width": width, "height": height})
        page.open()
        return page

    yield make
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def lasting_page(chromium):
    """Opens the page of a server in a window that stays: that takes seconds."""
    contexts = []

    def make(served, *, height=800):
        contexts.append(chromium.new_context(viewport={"width": 1280, "height": height}))
        page = Page(contexts[-1].new_page(), served)
        page.open()
        return page

    yield make
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def shared_page(lasting_page, served):
    """One window for most tests."""
    return lasting_page(served)


@pytest.fixture
def page(shared_page):
    """The page with the phantom, without a click in it."""
    shared_page.fresh_phantom()
    yield shared_page
    assert shared_page.faults == []


@pytest.fixture(scope="session")
def phantom():
    from protosam.phantom import make_phantom

    return make_phantom()


@pytest.fixture(scope="session")
def run_async():
    """Runs a coroutine on a thread of its own: playwright keeps a loop on this one."""
    with ThreadPoolExecutor(1) as thread:
        yield lambda made: thread.submit(asyncio.run, made).result(60)


def dice(a, b):
    return 2 * np.logical_and(a, b).sum() / (a.sum() + b.sum())


@pytest.fixture(scope="session")
def dice_of():
    return dice
