"""In a real browser: learn a finished case, apply it to the next volume, review the proposal."""

from __future__ import annotations

import nibabel
import pytest

from protosam.phantom import make_phantom
from protosam.seg_nrrd import read_segmentation

ANSWER_MS = 200_000
"""A click and an application on a machine that does much else besides."""


@pytest.fixture(scope="module")
def next_volume(tmp_path_factory):
    """The next patient: the phantom from another seed, and where its liver is."""
    made = make_phantom(seed=7)
    path = tmp_path_factory.mktemp("next") / "next.nii.gz"
    voxels = made.volume.voxels.transpose(2, 1, 0)  # NIfTI counts (i, j, k)
    nibabel.save(nibabel.Nifti1Image(voxels, made.volume.affine), path)
    return path, made


def forget_examples(page):
    for one in page.state("examples"):
        page.act("example_forget", one["id"])
    page.until("get('examples').length === 0")


@pytest.fixture
def taught(page, phantom, tmp_path):
    """The page with a liver that was clicked, and the example that was made of it."""
    forget_examples(page)
    page.click(phantom.clicks[0][0], wait=False)
    page.until("!get('busy') && get('prompts').length && get('prompts')[0].answered", ANSWER_MS)
    page.act("rename", page.state("segment_id"), "liver")
    page.until("get('can_make')")
    page.page.click("#ps-example-make")
    page.until("get('examples').length === 1 && !get('example_phase')", ANSWER_MS)
    yield page
    page.act("example_cancel")
    forget_examples(page)


def open_next(page, path):
    page.upload(path)
    page.until("get('volumes').length === 2 && !get('opening') && get('segments').length === 1")
    page.until("get('can_apply')")


def applied(page):
    page.page.click("#ps-example-apply")
    page.until("get('example_phase') === 'applying'")
    page.until("!get('example_phase')", ANSWER_MS)
    page.until("get('proposals').length === 1 && get('strip').length > 3")


def liver_of(page, folder):
    found = read_segmentation(page.save("seg", folder)).segments
    return next(one for one in found if one.name == "liver")


def test_an_example_is_learnt_saved_loaded_and_taken_away(taught, tmp_path):
    page = taught
    assert [one["name"] for one in page.state("examples")] == ["liver"]
    with page.page.expect_download() as download:
        page.page.get_by_label("Save as a file").click()
    assert download.value.suggested_filename == "liver.psexample"
    path = tmp_path / "kept.psexample"
    download.value.save_as(path)
    assert path.stat().st_size > 10_000

    page.page.get_by_label("Take away").click()
    page.until("get('examples').length === 0")
    assert page.page.locator("#ps-example-apply").is_disabled()
    page.upload(path)
    page.until("get('examples').length === 1")
    assert page.state("examples")[0] == {
        "id": page.state("examples")[0]["id"],
        "name": "kept",
        "chosen": True,
    }
    assert len(page.state("volumes")) == 1  # it is no image


def test_the_next_volume_is_proposed_reviewed_and_accepted(taught, next_volume, tmp_path, dice_of):
    page, (path, made) = taught, next_volume
    open_next(page, path)
    applied(page)
    liver = liver_of(page, tmp_path)
    assert dice_of(liver.mask, made.truth) > 0.6
    (row,) = page.state("proposals")
    assert (row["name"], row["decision"]) == ("liver", "proposed")
    assert page.state("segment_id") == row["segment_id"]  # the empty one was not worked on

    # A click on the strip shows that slice, the button the most doubtful one.
    strip = page.state("strip")
    cells = page.page.locator("#ps-strip .ps-slice")
    assert cells.count() == len(strip)
    last = strip[-1]["index"]
    page.page.locator(f"[data-slice='{last}']").click()
    page.until(f"get('strip_here') === {last}")
    page.page.click("#ps-doubtful")
    least = min(strip, key=lambda one: one["level"])
    page.until(f"get('strip').find(one => one.index === get('strip_here')).level <= "
               f"{least['level'] + 0.01}")  # fmt: skip
    assert str(page.state("strip_here") + 1) in page.page.locator("#ps-strip-text").inner_text()

    page.page.click("#ps-accept")
    page.until("get('proposals').length === 0")
    assert dice_of(liver_of(page, tmp_path).mask, liver.mask) == 1.0
    assert not page.state("proposal_open")


def test_a_click_corrects_the_proposal_and_marks_its_slice_as_checked(taught, next_volume):
    page, (path, made) = taught, next_volume
    open_next(page, path)
    applied(page)
    found = [one["id"] for one in page.state("prompts")]
    assert found
    assert all(one.startswith("example-") for one in found)
    page.click(made.clicks[0][0])
    assert len(page.state("prompts")) == len(found) + 1
    assert page.state("proposals")[0]["decision"] == "corrected"
    texts = {one["index"]: one["text"] for one in page.state("strip")}
    assert "checked" in texts.values()
    page.page.keyboard.press("Control+z")
    page.until("get('proposals')[0].decision === 'proposed'")


def test_rejecting_takes_the_segment_away_and_undo_brings_it_back(taught, next_volume, tmp_path):
    page, (path, _) = taught, next_volume
    open_next(page, path)
    applied(page)
    before = liver_of(page, tmp_path).mask
    page.page.get_by_label("Reject", exact=True).click()
    page.until("get('proposals').length === 0 && get('segments').length === 1")
    assert page.state("segments")[0]["name"] != "liver"
    page.page.keyboard.press("Control+z")
    page.until("get('proposals').length === 1")
    assert (liver_of(page, tmp_path).mask == before).all()


def test_an_application_can_be_cancelled_and_clicks_are_taken_meanwhile(taught, next_volume):
    page, (path, made) = taught, next_volume
    open_next(page, path)
    page.page.click("#ps-example-apply")
    page.until("get('example_phase') === 'applying'")
    page.click(made.clicks[0][0], wait=False)
    page.until("get('prompts').length === 1 && get('prompts')[0].answered", ANSWER_MS)
    page.page.keyboard.press("Escape")
    page.page.keyboard.press("Escape")
    page.until("!get('example_phase')")
    assert [one["answered"] for one in page.state("prompts")] == [True]


def test_a_damaged_example_is_refused_with_a_sentence(page, tmp_path):
    forget_examples(page)
    path = tmp_path / "broken.psexample"
    path.write_bytes(b"no example at all")
    page.upload(path)
    page.until("get('examples').length === 1 && get('can_apply')")
    page.page.click("#ps-example-apply")
    page.until("get('alerts').some(one => one.level === 'error')", ANSWER_MS)
    assert any("is not a whole example" in one for one in page.alerts())
    assert len(page.state("segments")) == 1
    forget_examples(page)
