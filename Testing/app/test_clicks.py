"""Real clicks in a real browser: what is clicked is segmented, undone, saved."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest

from protosam.clicks import first_click


def test_one_click_on_an_organ_draws_it_and_reaches_dice_of_0_8(page, phantom, dice_of, tmp_path):
    kidney = phantom.mask("right kidney")
    place = first_click(kidney, phantom.volume.spacing_kji_mm).place
    page.go_to(place)
    before = page.picture("axial")
    page.click(place)
    mask = page.mask(tmp_path)
    after = page.picture("axial")
    assert before.shape == after.shape
    assert (np.abs(before - after).sum(axis=2) > 30).mean() > 0.004  # the segment is drawn
    assert dice_of(mask, kidney) >= 0.8
    page.until("get('surface_count') === 1")


def test_a_negative_click_shrinks_the_segment(page, phantom, tmp_path):
    page.act("scope:slice")
    place = phantom.clicks[0][0]
    page.click(place)
    before = page.mask(tmp_path)
    inside = np.argwhere(before[place[0]])
    farthest = inside[np.abs(inside - place[1:]).sum(axis=1).argmax()]
    beside = (place[0], *(np.array(place[1:]) + 0.8 * (farthest - place[1:])).astype(int))
    page.click(beside, control=True)
    inside_of, outside_of = page.clicked()
    after = page.mask(tmp_path)
    assert not after[outside_of]
    assert after[inside_of]
    assert after.sum() < before.sum()


def test_a_box_gives_the_organ_in_it(page, phantom, dice_of, tmp_path):
    page.act("scope:slice")
    kidney = phantom.mask("right kidney")
    k = int(np.argwhere(kidney)[:, 0].mean())
    low, high = np.argwhere(kidney[k]).min(axis=0), np.argwhere(kidney[k]).max(axis=0)
    middle = (k, *((low + high) // 2).tolist())
    page.go_to(middle)
    corners = page.place_of((k, *(low - 1))), page.place_of((k, *(high + 1)))
    page.drag("axial", *corners, shift=True)
    page.until("get('prompts').length === 1")
    page.answered()
    assert [one["kind"] for one in page.state("prompts")] == ["box"]
    mask = page.mask(tmp_path)
    assert dice_of(mask[k], kidney[k]) > 0.8
    assert not np.delete(mask, k, axis=0).any()


def test_undo_takes_back_mask_and_point_and_redo_brings_both_again(page, phantom, tmp_path):
    page.act("scope:slice")
    page.click(phantom.clicks[0][0])
    one = page.mask(tmp_path)
    page.click(phantom.clicks[0][0][:1] + tuple(np.array(phantom.clicks[0][0][1:]) + 8))
    two = page.mask(tmp_path)
    assert len(page.state("prompts")) == 2
    page.page.keyboard.press("Control+z")
    page.until("get('prompts').length === 1")
    assert np.array_equal(page.mask(tmp_path), one)
    page.page.keyboard.press("Control+y")
    page.until("get('prompts').length === 2")
    assert np.array_equal(page.mask(tmp_path), two)
    page.page.keyboard.press("Control+z")
    page.page.keyboard.press("Control+z")
    page.until("get('prompts').length === 0 && !get('can_undo')")
    page.until("get('surface_count') === 0")


def test_a_point_is_taken_back_by_its_button_and_by_the_delete_key(page, phantom):
    page.act("scope:slice")
    page.click(phantom.clicks[0][0])
    page.page.get_by_label("Take this one back").click()
    page.until("get('prompts').length === 0 && !get('busy')")
    page.click(phantom.clicks[0][0])
    page.page.keyboard.press("Delete")
    page.until("get('prompts').length === 0 && !get('busy')")
    page.until("get('surface_count') === 0")
    assert page.alerts() == []


def test_a_point_that_is_dragged_moves_and_the_mask_follows(page, phantom, tmp_path):
    page.act("scope:slice")
    place = phantom.clicks[0][0]
    page.click(place)
    text = page.state("prompts")[0]["text"]
    start = page.place_of(place)
    page.drag("axial", start, (start[0] + 24, start[1] + 10))
    page.until(f"get('prompts')[0].text !== {text!r}")
    page.answered()
    assert len(page.state("prompts")) == 1
    assert page.mask(tmp_path).any()


@pytest.mark.wall_clock
def test_cancel_ends_a_propagation_and_leaves_the_segment_as_it_was(page, phantom):
    worker = page.served.worker()
    page.click(phantom.clicks[0][0], wait=False)
    page.until("get('busy') && get('progress') > 0")
    begun = time.monotonic()
    page.page.click("#ps-cancel")
    page.until("!get('busy')")
    took_s = time.monotonic() - begun
    page.until("get('prompts').length === 0")
    assert took_s < 1.5
    assert not page.state("has_mask")
    assert worker.is_running()
    assert page.alerts() == []


@pytest.mark.wall_clock
def test_scrolling_stays_live_while_an_answer_takes_three_seconds(page, phantom, dice_of):
    worker = page.served.worker()
    page.act("scope:slice")
    page.go_to(phantom.clicks[0][0])
    os.kill(worker.pid, signal.SIGSTOP)
    try:
        page.click(phantom.clicks[0][0], wait=False)
        stopped_s = time.monotonic()
        page.until("get('busy')")
        seen = []
        for _ in range(4):
            index = page.state("plane_axial")["index"]
            before = page.picture("axial")
            begun = time.monotonic()
            page.page.mouse.wheel(0, -100)
            page.until(f"get('plane_axial').index !== {index}", 2000)
            while np.array_equal(page.picture("axial"), before) and time.monotonic() < begun + 2:
                page.page.wait_for_timeout(10)
            seen.append(time.monotonic() - begun)
        assert page.state("busy")
        assert max(seen) < 1.5, seen
        while time.monotonic() < stopped_s + 3:
            page.page.wait_for_timeout(50)
    finally:
        os.kill(worker.pid, signal.SIGCONT)
    page.answered()
    page.until("get('has_mask')")


def test_a_killed_worker_gives_a_message_and_the_next_click_works(page, phantom):
    page.act("scope:slice")
    worker = page.served.worker()
    os.kill(worker.pid, signal.SIGSTOP)  # so that it cannot answer first
    page.click(phantom.clicks[0][0], wait=False)
    page.until("get('busy')")
    os.kill(worker.pid, signal.SIGKILL)
    page.until("get('alerts').length > 0 && !get('busy')", 5000)
    assert "ended" in page.alerts()[0]
    page.click(phantom.clicks[0][0][:1] + tuple(np.array(phantom.clicks[0][0][1:]) + 5))
    page.until("get('has_mask')")
    assert page.served.worker().pid != worker.pid


def test_main_actions_work_with_the_keyboard_alone(page, phantom, tmp_path):
    keyboard = page.page.keyboard
    place = phantom.clicks[0][0]
    keyboard.press("v")  # this slice only
    page.until("get('scope') === 'slice'")
    start = page.state("plane_axial")["index"]
    keyboard.press("PageUp")
    page.until(f"get('plane_axial').index === {start + 1}")
    keyboard.press("PageDown")
    page.until(f"get('plane_axial').index === {start}")
    sagittal = page.state("plane_sagittal")["index"]
    keyboard.press("ArrowLeft")
    page.until(f"get('plane_sagittal').index !== {sagittal}")
    rows = phantom.volume.shape_kji[1]
    page.act("set_slice", "coronal", rows - 1 - place[1])
    page.act("set_slice", "sagittal", place[2])
    page.act("set_slice", "axial", place[0])
    page.until(f"get('plane_axial').index === {place[0]}")
    keyboard.press("Enter")
    page.answered()
    page.until("get('prompts').length === 1")
    page.answered()
    assert page.clicked() == [place]
    keyboard.press("n")
    page.until("get('segments').length === 2")
    keyboard.press("[")
    page.until("get('segment_id') === get('segments')[0].id")
    with page.page.expect_download() as download:
        keyboard.press("Control+s")
    assert download.value.suggested_filename.endswith(".seg.nrrd")
    keyboard.press("?")
    page.page.wait_for_selector("text=Mouse and keys")
    keyboard.press("Escape")
    keyboard.press("Control+z")
    page.until("get('segments').length === 1")


def test_an_organ_of_a_real_volume_is_segmented(page, shared_data, dice_of, tmp_path):
    import nibabel

    folder = shared_data / "btcv_abdomen_ct"
    truth = np.asarray(nibabel.load(folder / "btcv_13_lab.nii.gz").dataobj).T == 6  # liver
    page.upload(folder / "btcv_13_img.nii.gz")
    page.until("get('volumes').length === 2 && !get('opening')")
    page.page.wait_for_timeout(500)
    page.act("scope:slice")
    k = int(truth.sum(axis=(1, 2)).argmax())
    places = np.argwhere(truth[k])
    middle = places[np.abs(places - places.mean(axis=0)).sum(axis=1).argmin()]
    before = page.picture("axial")
    page.click((k, *middle.tolist()))
    mask = page.mask(tmp_path)
    assert not np.array_equal(before, page.picture("axial"))
    assert mask[(k, *middle)]
    assert dice_of(mask[k], truth[k]) > 0.5
