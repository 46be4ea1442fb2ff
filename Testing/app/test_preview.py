"""In a real browser: answers that are shown while they are made, and the clean-up's fields."""

from __future__ import annotations

import time

import numpy as np
import pytest

LIMIT_S = 60.0
ANSWER_MS = 60_000


def differing(one, other):
    """Share of the pixels that differ clearly."""
    return float((np.abs(one - other).sum(axis=2) > 30).mean())


NOTHING, SEGMENT = 0.002, 0.02
"""Shares of the picture; a point covers less than the second, a slice of the liver more."""


@pytest.fixture
def page(page):
    """Without the crosshair, which moves to a click and stays there."""
    page.act("linked")
    page.until("!get('linked')")
    yield page
    page.act("linked")
    page.until("get('linked')")


def picture_until(page, condition):
    end = time.monotonic() + LIMIT_S
    while not condition(seen := page.picture("axial")):
        assert time.monotonic() < end, "the picture did not become what it should"
        page.page.wait_for_timeout(10)
    return seen


def test_the_clicked_slice_is_seen_before_the_answer_is_there(page, phantom, tmp_path):
    place = phantom.clicks[0][0]
    page.go_to(place)
    before = page.picture("axial")
    page.click(place, wait=False)
    early = picture_until(page, lambda seen: differing(seen, before) > SEGMENT)
    assert page.state("busy")
    assert not page.state("has_mask")
    assert not page.state("can_undo")
    page.until("!get('busy') && get('prompts').every(one => one.answered)", 4 * ANSWER_MS)
    after = picture_until(page, lambda seen: differing(seen, before) > SEGMENT)
    assert differing(early, after) < differing(early, before)
    assert page.mask(tmp_path).any()
    page.page.keyboard.press("Control+z")
    page.until("get('prompts').length === 0 && !get('can_undo')")
    picture_until(page, lambda seen: differing(seen, before) < NOTHING)


def test_cancel_takes_the_preview_away(page, phantom):
    place = phantom.clicks[0][0]
    page.go_to(place)
    before = page.picture("axial")
    page.click(place, wait=False)
    picture_until(page, lambda seen: differing(seen, before) > SEGMENT)
    page.page.keyboard.press("Escape")
    page.until("!get('busy') && get('prompts').length === 0")
    picture_until(page, lambda seen: differing(seen, before) < NOTHING)
    assert not page.state("has_mask")
    assert not page.state("can_undo")


def test_smoothing_and_bodies_are_set_and_what_they_did_is_told(page, phantom, tmp_path):
    page.act("scope:slice")
    page.click(phantom.clicks[0][0])
    one = page.mask(tmp_path)
    page.page.get_by_label("Smooth (0 = off)").fill("12")
    page.page.keyboard.press("Enter")
    page.until("get('smoothing_mm') === 12")
    page.answered()
    page.until("get('clean_up').includes('smoothing')")
    assert "smoothing" in page.page.locator("#ps-cleaned").inner_text()
    assert not np.array_equal(page.mask(tmp_path), one)
    page.page.get_by_label("Bodies (0 = any number)").fill("1")
    page.page.get_by_label("Bodies (0 = any number)").blur()
    page.until("get('bodies') === 1")
    page.answered()
    page.page.keyboard.press("Control+z")
    page.page.keyboard.press("Control+z")
    page.until("!get('busy')")
    assert np.array_equal(page.mask(tmp_path), one)


def test_a_field_that_is_filled_in_wrongly_keeps_its_number(page):
    field = page.page.get_by_label("Smooth (0 = off)")
    for text in ("51", "-1", ""):
        field.fill(text)
        field.blur()
        page.until("get('alerts').length === 1")
        assert "Give 0 to 50 mm." in page.alerts()[0]
        page.act("close_alert", 0)
        page.until("get('alerts').length === 0")
        assert field.input_value() == "0"
    assert page.state("smoothing_mm") == 0


def test_keys_typed_into_a_field_are_no_shortcuts(page):
    page.page.get_by_label("Bodies (0 = any number)").focus()
    page.page.keyboard.press("Control+a")
    page.page.keyboard.type("3")
    assert page.state("tool") == "inside"
    page.page.keyboard.press("Enter")
    page.until("get('bodies') === 3")
    page.act("bodies", "0")
    page.until("get('bodies') === 0")
