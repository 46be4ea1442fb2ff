"""Files in and out of the page, and pages that are opened again or twice."""

from __future__ import annotations

import zipfile

import nibabel
import numpy as np
import SimpleITK as sitk

from protosam.seg_nrrd import read_segmentation


def test_what_is_saved_is_what_is_drawn_in_both_formats(page, phantom, tmp_path):
    page.act("scope:slice")
    segment = page.state("segments")[0]["id"]
    page.act("rename", segment, "Leber groß")
    page.act("colour", segment, "#6fa8ff")
    page.click(phantom.clicks[0][0])
    saved = read_segmentation(page.save("seg", tmp_path))
    assert [one.name for one in saved.segments] == ["Leber groß"]
    assert np.allclose(saved.segments[0].colour, (0x6F / 255, 0xA8 / 255, 1.0), atol=0.003)
    assert np.allclose(saved.affine, phantom.volume.affine, atol=1e-4)
    assert saved.segments[0].mask[phantom.clicks[0][0]]
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(page.save("labelmap", tmp_path))))
    assert np.array_equal(labels == 1, saved.segments[0].mask)


def test_nothing_to_save_cannot_be_saved(page):
    assert page.page.locator("#ps-save").is_disabled()
    page.page.keyboard.press("Control+s")
    page.until("get('alerts').length === 1")
    assert "empty" in page.alerts()[0]


def test_a_broken_file_gives_a_message_and_the_scene_stays(page, tmp_path):
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"no image at all")
    page.upload(broken)
    page.until("get('alerts').length === 1")
    assert "damaged" in page.alerts()[0]
    assert [one["name"] for one in page.state("volumes")] == ["Practice volume"]
    page.page.get_by_label("Close").last.click()
    page.until("get('alerts').length === 0")
    unknown = tmp_path / "letter.docx"
    unknown.write_bytes(b"PK but not an image")
    page.upload(unknown)
    page.until("get('alerts').length === 1")
    assert "cannot be read" in page.alerts()[0]


def test_an_image_in_a_zip_file_is_opened_and_its_upload_removed(page, phantom, tmp_path):
    image = nibabel.Nifti1Image(phantom.volume.voxels[::2, ::2, ::2].T, phantom.volume.affine)
    nibabel.save(image, tmp_path / "scan.nii.gz")
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        archive.write(tmp_path / "scan.nii.gz", "some/folder/scan.nii.gz")
    page.upload(tmp_path / "study.zip")
    page.until("get('volumes').length === 2 && !get('opening')")
    chosen = page.state("volume_id")
    assert next(one["name"] for one in page.state("volumes") if one["id"] == chosen) == "study"
    assert page.state("plane_axial")["count"] == 28
    left = list(page.served.temporary.rglob("*.nii.gz"))
    assert left == []


def test_a_dicom_folder_is_opened(page, shared_data, tmp_path):
    with zipfile.ZipFile(shared_data / "dicom" / "brainix_mr_T1.zip") as archive:
        archive.extractall(tmp_path / "series")
    page.upload(tmp_path / "series")
    page.until("get('volumes').length === 2 && !get('opening')")
    assert page.state("plane_axial")["count"] > 10


def test_a_reload_of_the_page_keeps_the_scene(page, phantom):
    page.act("scope:slice")
    page.click(phantom.clicks[0][0])
    page.until("get('surface_count') === 1")
    page.page.mouse.move(5, 5)
    page.page.wait_for_timeout(500)
    before, rows = page.picture("axial"), page.state("prompts")
    page.page.reload()
    page.ready()
    page.page.wait_for_timeout(1500)
    after = page.picture("axial")
    assert page.state("prompts") == rows
    assert before.shape == after.shape
    assert np.abs(before - after).mean() < 3
    assert "token" not in page.page.url


def test_a_second_window_of_another_size_sees_the_scene_and_clicks_where_it_points(
    page, open_page, phantom
):
    page.act("scope:slice")
    second = open_page(width=1000, height=640)
    second.until("get('segments').length === 1")
    place = phantom.clicks[0][0]
    second.click(place)
    page.until("get('prompts').length === 1")
    k, j, i = place
    assert page.state("prompts")[0]["text"] in {
        f"Inside, voxel ({k}, {j + b}, {i + a})" for a in (-1, 0, 1) for b in (-1, 0, 1)
    }
    second.page.keyboard.press("?")
    second.page.wait_for_selector("text=Mouse and keys")
    assert page.page.get_by_text("Mouse and keys").count() == 0
    first_again = page.voxel_at("axial", *[n / 2 for n in page.size("axial")])
    assert first_again is not None
    assert second.faults == []


def test_the_page_asks_nothing_of_other_machines(page):
    elsewhere = [
        url
        for url in page.requests
        if not url.startswith((page.served.address[:17], "blob:", "data:"))
    ]
    assert len(page.requests) > 10
    assert elsewhere == []


def test_segments_are_added_renamed_hidden_locked_and_deleted(page, phantom):
    page.act("scope:slice")
    page.click(phantom.clicks[0][0])
    page.page.click("#ps-new")
    page.until("get('segments').length === 2")
    first, second = page.state("segments")
    assert page.state("segment_id") == second["id"]
    name = page.page.locator(".ps-segment .ps-name").nth(1)
    name.dblclick()
    page.page.locator(".ps-rename").fill("Spleen")
    page.page.keyboard.press("Enter")
    page.until("get('segments')[1].name === 'Spleen'")
    page.page.keyboard.press("h")
    page.until("!get('segments')[1].visible && get('hint_key') === 'hidden'")
    page.page.keyboard.press("h")
    page.act("select", first["id"])
    page.page.keyboard.press("l")
    page.until("get('segments')[0].locked && get('hint_key') === 'completed'")
    ml = page.state("segments")[0]["ml"]
    page.act("select", second["id"])
    page.click(phantom.clicks[0][0])  # in the voxels of the locked one
    page.until("get('segments')[1].ml !== 'empty'")
    assert page.state("segments")[0]["ml"] == ml
    page.page.get_by_label("Delete").nth(1).click()
    page.until("get('segments').length === 1")
    page.page.keyboard.press("Control+z")
    page.until("get('segments').length === 2 && get('segments')[0].locked")


def test_window_opacity_and_sizes_of_views_can_be_changed(page):
    before = page.picture("axial")
    page.act("window", 0, 400)
    page.until("get('window_low') === 0 && get('window_high') === 400")
    page.page.wait_for_timeout(400)
    assert np.abs(page.picture("axial") - before).mean() > 5
    page.page.keyboard.press("4")
    width, height = page.size("axial")
    page.drag("axial", (width / 2, height / 2), (width / 2 + 60, height / 2))
    page.until("get('window_high') - get('window_low') > 420")
    page.page.keyboard.press("f")
    page.until("get('enlarged') === 'axial'")
    page.page.wait_for_timeout(600)
    assert page.size("axial")[0] > 1.8 * width
    assert abs(page.picture("axial").shape[1] - page.size("axial")[0]) < 3
    page.page.keyboard.press("f")
    page.until("get('enlarged') === ''")
