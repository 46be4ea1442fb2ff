"""In a real browser: keep corrected cases, teach, stop, read a verdict, choose among versions."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from protosam.cases.roles import patient_hash
from protosam.learn.adapter_cards import AdapterCard
from protosam.learn.adapters import AdapterStore
from protosam.learn.recipe import network_of, with_adapter
from protosam.learn.recipe_settings import RecipeSettings
from protosam.learn.train_shift import weights_of
from protosam.models.load import load_model
from protosam.models.lora import save_adapter
from protosam.phantom import make_phantom
from protosam.scene.learning_status import LearningStatus, LossPoint, RunStatus
from protosam.wire.messages import AdapterInfo, CaseList

PROGRAM = Path(__file__).parent / "adapt_page.py"
ANSWER_MS = 200_000
"""A run that begins on a machine that does much else besides."""

SLICES = 8
"""Of the volumes here: whole objects in them are found in a moment."""

PATIENT = "SECRET-4711"
TYPED = "Anna, born 1970"


class Slab:
    """Some slices of a phantom round the middle of its liver."""

    def __init__(self, seed):
        made = make_phantom(seed=seed)
        middle = int(made.clicks[0][0][0])
        low = min(max(middle - SLICES // 2, 0), made.volume.shape_kji[0] - SLICES)
        self.voxels = made.volume.voxels[low : low + SLICES]
        self.truth = made.truth[low : low + SLICES]
        k = int(self.truth.sum(axis=(1, 2)).argmax())
        places = np.argwhere(self.truth[k])
        nearest = np.abs(places - places.mean(axis=0)).sum(axis=1).argmin()
        self.click = (k, *places[nearest].tolist())


def write_image(slab, path):
    voxels = slab.voxels.transpose(2, 1, 0)  # NIfTI counts (i, j, k)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([-2.0, -2.0, 5.0, 1.0])), path)
    return path


def write_series(slab, folder):
    folder.mkdir()
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    for k, pixels in enumerate(slab.voxels):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        data.SeriesInstanceUID, data.StudyInstanceUID = series, study
        data.FrameOfReferenceUID, data.Modality = frame, "CT"
        data.PatientID, data.PatientName = PATIENT, "Secret^Name"
        data.Rows, data.Columns = pixels.shape
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit, data.PixelRepresentation = 15, 1
        data.RescaleSlope, data.RescaleIntercept = 1, 0
        data.PixelSpacing, data.ImageOrientationPatient = [2, 2], [1, 0, 0, 0, 1, 0]
        data.ImagePositionPatient = [0, 0, 5 * k]
        data.PixelData = pixels.astype("<i2").tobytes()
        data.save_as(folder / f"{k}.dcm", enforce_file_format=True)
    return folder


@pytest.fixture(scope="module")
def slabs():
    return [Slab(seed) for seed in (3, 7)]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Folder of this user's adapters."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def store(home):
    return AdapterStore(home / "protosam" / "adapters")


@pytest.fixture(scope="module")
def adapting(serve, slabs, home, tmp_path_factory):
    """A page whose runs are short."""
    image = write_image(slabs[0], tmp_path_factory.mktemp("image") / "first.nii.gz")
    return serve(home, image, program=(PROGRAM,))


@pytest.fixture(scope="module")
def adapt_page(lasting_page, adapting):
    """The page with its section opened; by the keyboard, as everything in it can be."""
    made = lasting_page(adapting, height=1000)
    made.until("get('worker') === 'ready' && get('segments').length === 1", ANSWER_MS)
    head = made.page.locator("#ps-adapt .ps-fold")
    assert head.get_attribute("aria-expanded") == "false"
    assert made.page.locator("#ps-adapt-body").count() == 0
    head.press("Enter")
    made.page.wait_for_selector("#ps-adapt-body")
    assert head.get_attribute("aria-expanded") == "true"
    yield made
    assert made.faults == []


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    return tmp_path_factory.mktemp("work") / "cases"


def choose(page, folder):
    page.page.fill("#ps-adapt-folder", str(folder))
    page.page.press("#ps-adapt-folder", "Enter")


def segment(page, slab, name):
    page.click(slab.click, wait=False)
    page.until("!get('busy') && get('prompts').every(one => one.answered)", ANSWER_MS)
    page.act("rename", page.state("segment_id"), name)
    page.until("get('adapt_can_save')")


def words(page):
    return page.page.locator("#ps-adapt-words").inner_text()


def everything_told(page):
    """All that a window of the page was told."""
    return json.dumps(page.page.evaluate("window.trame.state.state"))


@pytest.fixture(scope="module")
def two_cases(adapt_page, cases, slabs, tmp_path_factory):
    """Two cases, kept through the page: of a typed patient, and of a header's."""
    page = adapt_page
    choose(page, cases)
    page.until("get('adapt_cases') === 'No cases yet'")
    segment(page, slabs[0], "liver")
    page.page.click("#ps-adapt-save")
    page.until("get('adapt_note').includes('Nothing tells whose image this is')")
    assert "any text that is the same for all images of this patient" in words(page)
    page.page.fill("#ps-adapt-patient", TYPED)
    page.page.press("#ps-adapt-patient", "Enter")
    page.until("get('adapt_cases').startsWith('1 case of 1 patient')", ANSWER_MS)

    page.upload(write_series(slabs[1], tmp_path_factory.mktemp("series") / "series"))
    page.until("get('volumes').length === 2 && !get('opening') && get('segments').length === 1")
    page.until("get('adapt_patient_known')")
    field = page.page.locator("#ps-adapt-patient")
    assert field.input_value() == ""  # what was typed for the image before is not taken over
    assert "as the header says" in field.get_attribute("placeholder")
    page.page.wait_for_timeout(300)
    segment(page, slabs[1], "liver")
    page.page.click("#ps-adapt-save")
    page.until("get('adapt_cases').startsWith('2 cases of 2 patients')", ANSWER_MS)
    return page


def test_two_cases_are_kept_and_counted_and_nobody_reads_whose_they_are(two_cases, cases, adapting):
    page = two_cases
    saved = json.loads((cases / "manifest.json").read_text())
    hashes = {patient_hash(one, saved["salt"]) for one in (TYPED, PATIENT)}
    assert {one["patient"] for one in saved["cases"].values()} == hashes
    held_out = sum(one["role"] == "held-out" for one in saved["cases"].values())
    told = page.page.locator("#ps-adapt-cases").inner_text()
    assert told == f"2 cases of 2 patients, {held_out} held out"
    assert "Saved: liver." in words(page)
    kept = everything_told(page) + adapting.log.read_text()
    assert TYPED not in kept
    assert PATIENT not in kept
    assert not any(TYPED.encode() in one.read_bytes() for one in cases.rglob("*") if one.is_file())


def test_an_image_that_is_saved_again_stays_one_case(two_cases):
    two_cases.page.click("#ps-adapt-save")
    two_cases.until("get('adapt_note').includes('Saved again: liver.')", ANSWER_MS)
    assert two_cases.state("adapt_level") == "info"
    assert two_cases.state("adapt_cases").startswith("2 cases")


def test_a_folder_that_cannot_be_one_is_refused_and_nothing_goes_into_the_old_one(two_cases, cases):
    page, wrong = two_cases, cases.parent / "nowhere" / "cases"
    choose(page, wrong)
    page.until(f"get('adapt_note').includes('There is no folder {wrong}')")
    assert "Choose a folder that is there" in words(page)
    assert page.page.locator("#ps-adapt-save").is_disabled()
    assert page.page.locator("#ps-adapt-start").is_disabled()
    page.act("adapt_save", TYPED)
    page.until("get('alerts').some(one => one.text.includes('typed last cannot be used'))")
    page.act("close_alert", 0)
    choose(page, cases)
    page.until("get('adapt_can_start') && get('adapt_cases').startsWith('2 cases')")


def test_a_run_is_seen_moving_clicks_are_answered_meanwhile_and_it_stops(two_cases, slabs):
    page = two_cases
    page.page.fill("#ps-adapt-name", "mine")
    page.page.select_option("#ps-adapt-tier", "decoder")
    page.page.click("#ps-adapt-start")
    page.until("get('adapt_curve').points.split(' ').length > 2", ANSWER_MS)
    before = page.state("adapt_curve")
    page.act("clear")
    page.until("get('prompts').length === 0")
    page.click(slabs[1].click)
    page.until("get('segments')[0].ml !== 'empty'")
    assert page.state("adapt_phase") == "running"
    page.until(f"get('adapt_curve').points !== {json.dumps(before['points'])}")
    shown = page.page.locator("#ps-adapt-curve polyline").first.get_attribute("points")
    assert len(shown.split()) > 2
    assert "of 20000" in page.page.locator("#ps-adapt-progress").inner_text()
    assert page.page.locator("#ps-adapt-left").inner_text().endswith("left")
    assert "Teaching" in page.page.locator("#ps-adapt .ps-fold").inner_text()
    page.page.click("#ps-adapt-stop")
    page.until("!get('adapt_phase')")
    assert "the adapter in use is as before" in words(page)
    assert page.page.locator("#ps-adapt-start").is_enabled()


def test_a_verdict_is_shown_with_its_reason_its_table_and_its_pictures(two_cases):
    page = two_cases
    page.page.fill("#ps-adapt-name", "by-heart")
    page.page.press("#ps-adapt-name", "Tab")
    page.page.click("#ps-adapt-start")
    page.page.wait_for_selector("#ps-adapt-verdict")
    text = page.page.locator("#ps-adapt-verdict").inner_text()
    assert "Not accepted: by-heart, version 4" in text
    assert "Mean Dice fell by 0.031, and 0.005 is allowed; the old one stays." in text
    assert "6 objects of 2 cases, not validated on another patient." in text.replace("\n", " ")
    assert "The tier full does not fit into memory" in text
    rows = page.page.locator("#ps-adapt-verdict tbody tr").all_inner_texts()
    assert [one.split() for one in rows] == [
        ["Base", "-", "0.741", "0.800", "12.2"],
        ["Before", "-", "0.812", "0.866", "7.5"],
        ["Now", "-", "0.781", "0.850", "8.0"],
    ]
    loaded = "() => [...document.querySelectorAll('.ps-pictures img')].map(one => one.naturalWidth)"
    page.page.wait_for_function(f"({loaded})().join() === '30,30'")
    assert words(page).strip() == "What was in use before stays."
    status = page.page.evaluate("fetch('judged/3').then(answer => answer.status)")
    assert status == 404
    page.act("close_alert", 0)


def a_card(dice):
    return AdapterCard(
        tier="decoder",
        base_name="protosam-tiny",
        base_sha256="0" * 64,
        labels=("liver",),
        cases=("aa", "bb"),
        held_out=("cc",),
        seed=0,
        settings={},
        figures={},
        gate={
            "accepted": True,
            "reason": "mean Dice changed by +0.040",
            "validation": "validated on other patients",
            "mean": {"current": {"dice_1": 0.75}, "new": {"dice_1": dice}},
        },
    )


@pytest.fixture
def versions(adapt_page, store):
    """An adapter with three versions, of which the last is active."""
    name = f"organs{len(store.names())}"
    for dice in (0.79, 0.8, 0.81):
        store.add(
            name,
            a_card(dice),
            lambda folder: (folder / "adapter_model.safetensors").write_text("weights"),
            activate=True,
        )
    adapt_page.page.get_by_label("Look into the folder again").click()
    adapt_page.until(f"get('adapt_versions').filter(one => one.name === '{name}').length === 3")
    return name


def row(page, name, number):
    return page.page.locator(f"#ps-adapt-versions .ps-row:has-text('{name} {number}')")


def active(page, name):
    rows = [one for one in page.state("adapt_versions") if one["name"] == name]
    return [one["number"] for one in rows if one["active"]]


def test_versions_are_listed_the_newest_first_and_made_active_and_rolled_back(
    two_cases, versions, store
):
    page, name = two_cases, versions
    rows = [one for one in page.state("adapt_versions") if one["name"] == name]
    assert [one["number"] for one in rows] == [3, 2, 1]
    assert rows[0]["figures"] == "0.750 → 0.810"
    assert "Accepted: Mean Dice changed by +0.040." in rows[0]["text"]
    assert active(page, name) == [3]
    row(page, name, 1).get_by_label("Activate this version").click()
    page.until(f"get('adapt_note').includes('{name} now means version 1')")
    assert active(page, name) == [1]
    row(page, name, 1).get_by_label("Roll back").click()
    page.until(f"get('adapt_note').includes('{name} now means version 3')")
    assert store.version(name).number == 3


def test_a_version_is_deleted_only_after_it_was_asked_for_twice(two_cases, versions, store):
    page, name = two_cases, versions
    row(page, name, 2).get_by_label("Discard").press("Enter")
    page.page.get_by_text("It cannot be brought back").wait_for()
    page.page.get_by_role("button", name="Keep it").click()
    page.page.get_by_text("It cannot be brought back").wait_for(state="detached")
    assert len(store.versions(name)) == 3
    row(page, name, 2).get_by_label("Discard").click()
    page.page.locator("#ps-adapt-discard").click()
    page.until(f"get('adapt_versions').filter(one => one.name === '{name}').length === 2")
    assert [one.number for one in store.versions(name)] == [1, 3]
    page.page.get_by_text("It cannot be brought back").wait_for(state="detached")


def test_an_adapter_is_used_and_not_used_by_its_switch(two_cases, versions):
    page, name = two_cases, versions
    row(page, name, 3).get_by_label("Use it for the next answers").click()
    page.until(f"get('adapt_used') === '{name}'")
    assert f"answered with {name}, version 3" in words(page)
    switch = page.page.get_by_label(f"Use adapter {name}", exact=True)
    assert switch.is_checked()
    switch.press("Space")
    page.until("get('adapt_used') === ''")
    assert "without an adapter" in words(page)
    page.act("adapt_use", "unheard-of")
    page.until("get('adapt_note').includes('unheard-of has no version in use')")


@pytest.fixture(scope="module")
def real_adapter(store, tmp_path_factory):
    """An adapter that the model can load, and that changes its answers."""
    model = load_model(device="cpu")
    with_adapter(model, RecipeSettings())
    network = network_of(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if ".lora_B." in name and "mask_decoder" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    base, made = weights_of(model), tmp_path_factory.mktemp("adapter") / "real"
    save_adapter(network, made, base_sha256=base)
    store.add(
        "real",
        replace(a_card(0.8), base_sha256=base),
        lambda folder: shutil.copytree(made, folder, dirs_exist_ok=True),
        activate=True,
    )
    return "real"


def test_clicks_are_answered_with_the_adapter_that_is_used(two_cases, real_adapter, slabs):
    page = two_cases

    def answer():
        page.act("clear")
        page.until("get('prompts').length === 0 && get('segments')[0].ml === 'empty'")
        page.click(slabs[1].click, wait=False)
        page.until("!get('busy') && get('segments')[0].ml !== 'empty'")
        return page.state("segments")[0]["ml"]

    plain = answer()
    page.page.get_by_label("Look into the folder again").click()
    page.until(f"get('adapt_versions').some(one => one.name === '{real_adapter}')")
    row(page, real_adapter, 1).get_by_label("Use it for the next answers").click()
    page.until(f"get('adapt_used') === '{real_adapter}'")
    assert page.state("segments")[0]["ml"] == plain  # masks that are there stay
    adapted = answer()
    page.act("adapt_use", "")
    page.until("get('adapt_used') === ''")
    assert adapted != plain
    assert answer() == plain
    assert page.alerts() == []


def test_everything_in_the_section_has_a_name_and_is_reached_by_the_keyboard(two_cases, versions):
    page = two_cases.page
    nameless = """() => [...document.querySelectorAll(
          '#ps-adapt button, #ps-adapt input, #ps-adapt select, #ps-adapt a, #ps-adapt img')]
      .filter(one => !(one.getAttribute('aria-label') || one.getAttribute('alt') || one.title
                       || one.innerText.trim() || one.labels?.length || one.querySelector('img')))
      .map(one => one.outerHTML)"""
    assert page.evaluate(nameless) == []
    unreached = """() => [...document.querySelectorAll(
          '#ps-adapt button, #ps-adapt input, #ps-adapt select, #ps-adapt a')]
      .filter(one => !one.disabled && one.tabIndex < 0).map(one => one.outerHTML)"""
    assert page.evaluate(unreached) == []


def test_a_folder_is_still_there_after_the_page_was_loaded_again(two_cases, cases):
    two_cases.page.reload()
    two_cases.ready()
    two_cases.page.click("#ps-adapt .ps-fold")
    two_cases.page.wait_for_selector("#ps-adapt-folder")
    assert two_cases.page.locator("#ps-adapt-folder").input_value() == str(cases)
    two_cases.until("get('adapt_cases').startsWith('2 cases')")


def test_what_is_learnt_is_told_to_nobody_without_the_token(adapting, chromium):
    context = chromium.new_context()
    answer = context.request.get(f"http://127.0.0.1:{adapting.port}/judged/1")
    assert answer.status == 403
    context.close()


def shown(**changes):
    from protosam_app.adapting import adapt_values

    return adapt_values(LearningStatus(**changes), refused=False)


def test_losses_become_a_curve_from_the_first_to_the_last_step_that_there_will_be():
    losses = tuple(LossPoint(float(step), 2.0 - step / 10) for step in range(1, 12))
    curve = shown(run=RunStatus("running", "a", step=11, steps=21, losses=losses))["adapt_curve"]
    points = [tuple(map(float, one.split(","))) for one in curve["points"].split()]
    assert points[0] == (0.0, 0.0)  # the highest loss, on top
    assert points[-1] == (50.0, 40.0)  # the lowest so far, in the middle of the way
    assert (curve["first"], curve["last"]) == ("1.45", "1.35")  # means of ten
    assert curve["steps"] == "step 11 of 21"
    flat = tuple(LossPoint(float(step), 1.0) for step in (1, 2))
    level = shown(run=RunStatus("running", "a", step=2, steps=2, losses=flat))["adapt_curve"]
    assert level["points"] == "0.0,0.0 100.0,0.0"
    assert shown(run=RunStatus("running", "a", losses=losses[:1]))["adapt_curve"]["points"] == ""


def test_time_left_is_told_no_finer_than_it_is_known():
    lefts = {12.4: "12 s left", 89.0: "89 s left", 100.0: "2 min left", 3600.0: "60 min left"}
    for seconds, text in lefts.items():
        run = RunStatus("running", "a", step=1, steps=9, seconds_left=seconds)
        assert shown(run=run)["adapt_left"] == text
    assert shown()["adapt_left"] == ""


def test_one_case_is_counted_as_one_and_none_as_none():
    told = {
        cases: shown(cases=cases)["adapt_cases"]
        for cases in (
            CaseList(0, 0, 0, ()),
            CaseList(1, 0, 1, ("liver",)),
            CaseList(5, 2, 4, ("liver",)),
        )
    }
    assert list(told.values()) == [
        "No cases yet",
        "1 case of 1 patient, 0 held out",
        "5 cases of 4 patients, 2 held out",
    ]  # fmt: skip
    assert shown()["adapt_cases"] == ""


def test_of_a_damaged_version_only_what_is_wrong_is_told():
    damaged = AdapterInfo(
        "organs", 2, False, "somewhere", "", "", "", (), 0, False, "Its card is cut", "", None, None
    )
    (told,) = shown(adapters=(damaged,))["adapt_versions"]
    assert told["text"] == "Not accepted: Its card is cut."
    assert told["figures"] == ""
