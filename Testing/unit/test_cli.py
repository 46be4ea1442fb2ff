"""The command line: what it takes, what it writes, and how it fails."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image
from typer.testing import CliRunner

from protosam import __version__
from protosam.cli import doctor
from protosam.cli.app import app
from protosam.cli.engines import Answer, Choice, InProcessEngine, Job, WorkerEngine
from protosam.cli.picture import draw_segment
from protosam.cli.prompt_options import parse_axis, parse_boxes, parse_points, parse_window
from protosam.cli.seed import bright_body_centre
from protosam.errors import Cancelled, InvalidInput, InvalidPrompt, WorkerDied
from protosam.extents import bounding_extent
from protosam.geometry import Volume, kji_to_ras
from protosam.intensity import Window
from protosam.learn import export as export_of_base
from protosam.learn import train_base as recipe
from protosam.learn.settings import TrainBaseSettings
from protosam.learn.train_base import TrainingProgress
from protosam.mending import CleanUpReport, StepReport
from protosam.models import install
from protosam.models.cards import MODEL_CARDS
from protosam.models.load import DEFAULT_MODEL
from protosam.models.tiny import TinySAM
from protosam.models.tiny_predictor import save_tiny
from protosam.models.weights import WeightsStatus
from protosam.phantom import Phantom, make_phantom
from protosam.plane_pictures import middle_of
from protosam.prompts import Point, PromptSet
from protosam.volume_io import read_labelmap, read_segmentation

runner = CliRunner()


@pytest.fixture(scope="module")
def a_tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that were never trained: what they answer is nonsense of the right form."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "own.safetensors"
    save_tiny(TinySAM(), path, {})
    return path


@pytest.fixture(scope="module")
def a_phantom() -> Phantom:
    return make_phantom()


@pytest.fixture
def an_image(tmp_path: Path, a_volume: Volume) -> Path:
    path = tmp_path / "scan.nii.gz"
    _write(path, a_volume.voxels)
    return path


@pytest.fixture
def a_block(monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """What every engine in this process answers: a block, whatever is asked."""
    mask = np.zeros((9, 12, 14), dtype=bool)
    mask[2:5, 3:7, 4:9] = True

    def answer(self, volume, job, on_progress) -> Answer:
        on_progress(0.5, "half")
        extent = bounding_extent(mask)
        assert extent is not None
        return Answer(
            extent,
            mask[extent.slices],
            0.75,
            Window(0, 1),
            "block",
            ("A note.",),
            elapsed_s=0.25,
            clean_up=CleanUpReport((StepReport("islands", 0, job.clean_up.bodies),)),
        )

    monkeypatch.setattr(InProcessEngine, "start", lambda self: 0.0)
    monkeypatch.setattr(InProcessEngine, "segment", answer)
    return mask


def segment(image: Path, out: Path, *options: str):
    return runner.invoke(app, ["segment", str(image), "-o", str(out), "--no-worker", *options])


def _write(path: Path, voxels: np.ndarray) -> None:
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((0.8, 1.1, 2.5))
    image.SetOrigin((-5.0, 7.0, 11.0))
    sitk.WriteImage(image, str(path))


# -- what the texts of prompts mean


def test_a_point_has_three_numbers_and_a_sign(a_volume: Volume) -> None:
    points = parse_points(["1,2,3,+", " 4 , 5.5 , 6 , - ", "7,8,9"], a_volume, ras=False)
    assert [(p.point_kji, p.positive) for p in points] == [
        ((1, 2, 3), True),
        ((4, 5.5, 6), False),
        ((7, 8, 9), True),
    ]
    assert len({p.id for p in points}) == 3


def test_a_point_in_ras_lands_in_its_voxel(a_volume: Volume) -> None:
    r, a, s = kji_to_ras(a_volume.affine, [[4, 6, 7]])[0]
    (point,) = parse_points([f"{r},{a},{s},-"], a_volume, ras=True)
    assert point.point_kji == (4, 6, 7)
    assert not point.positive


@pytest.mark.parametrize("text", ["", "1,2,+", "1,2,3,4,+", "1,2,x,+", "a"])
def test_a_text_that_is_no_point_is_refused_with_the_right_form(
    text: str, a_volume: Volume
) -> None:
    with pytest.raises(InvalidPrompt, match="k,j,i"):
        parse_points([text], a_volume, ras=False)


def test_a_point_outside_in_ras_is_refused(a_volume: Volume) -> None:
    with pytest.raises(InvalidPrompt, match="outside"):
        parse_points(["5000,0,0,+"], a_volume, ras=True)


def test_a_box_that_shares_an_index_lies_in_that_slice(a_volume: Volume) -> None:
    flat, solid = parse_boxes(["4,1,1,4,5,6", "1,1,1,4,5,6"], a_volume, ras=False)
    assert (flat.axis, solid.axis) == (0, None)


def test_a_box_in_ras_has_the_corners_of_its_voxels(a_volume: Volume) -> None:
    corners = kji_to_ras(a_volume.affine, [[1, 2, 3], [5, 8, 9]]).ravel()
    (box,) = parse_boxes([",".join(map(str, corners))], a_volume, ras=True)
    assert (box.low_kji, box.high_kji) == ((1, 2, 3), (5, 8, 9))


@pytest.mark.parametrize("text", ["1,2,3", "1,2,3,1,2,3", "1,2,3,1,2,9", "1,2,3,4,5,x"])
def test_a_box_without_volume_or_numbers_is_refused(text: str, a_volume: Volume) -> None:
    with pytest.raises(InvalidPrompt):
        parse_boxes([text], a_volume, ras=False)


def test_an_axis_is_a_letter_or_a_number() -> None:
    assert [parse_axis(text) for text in (None, "k", "J", "2")] == [None, 0, 1, 2]
    with pytest.raises(InvalidInput, match="axis"):
        parse_axis("z")


def test_a_window_is_two_numbers_or_auto() -> None:
    assert parse_window("-160,240") == Window(-160, 240)
    assert parse_window("auto") is None
    for text in ("10", "a,b", "5,1"):
        with pytest.raises(InvalidInput):
            parse_window(text)


# -- segment


def test_segment_writes_a_segmentation_that_holds_the_answer(
    an_image: Path, tmp_path: Path, a_block: np.ndarray
) -> None:
    out = tmp_path / "liver.seg.nrrd"
    done = segment(an_image, out, "--point", "3,4,5,+", "--name", "liver")
    assert done.exit_code == 0, done.output
    (written,) = read_segmentation(out).segments
    assert written.name == "liver"
    assert np.array_equal(written.mask, a_block)
    # 60 voxels of 0.8 x 1.1 x 2.5 mm
    assert "0.13 ml, score 0.75, 0.25 s" in done.stdout
    assert "A note." in done.stderr
    assert "Cleaned up" not in done.stderr


def test_segment_tells_what_the_clean_up_has_changed(
    an_image: Path, tmp_path: Path, a_block: np.ndarray
) -> None:
    options = ("--point", "3,4,5,+", "--bodies", "7", "--smoothing-mm", "1.5")
    done = segment(an_image, tmp_path / "liver.seg.nrrd", *options)
    assert done.exit_code == 0, done.output
    assert "Cleaned up: islands -7 voxels" in done.stderr


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_segment_writes_a_labelmap_on_the_grid_of_the_image(
    ending: str, an_image: Path, tmp_path: Path, a_block: np.ndarray
) -> None:
    out = tmp_path / f"mask{ending}"
    done = segment(an_image, out, "--point", "3,4,5,+")
    assert done.exit_code == 0, done.output
    labels = read_labelmap(out)
    assert np.array_equal(labels.voxels, a_block)
    reference = sitk.ReadImage(str(an_image))
    assert np.allclose(sitk.ReadImage(str(out)).GetOrigin(), reference.GetOrigin(), atol=1e-4)


def test_segment_runs_a_model_in_this_process(
    an_image: Path, tmp_path: Path, a_tiny_model: Path
) -> None:
    out = tmp_path / "any.seg.nrrd"
    options = ("--point", "3,4,5,+", "--scope", "slice", "--axis", "k", "--window", "-500,500")
    done = segment(an_image, out, *options, "--model", str(a_tiny_model), "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert len(read_segmentation(out).segments) == 1


@pytest.mark.slow
def test_segment_goes_through_the_worker_by_default(
    an_image: Path, tmp_path: Path, a_tiny_model: Path
) -> None:
    out = tmp_path / "any.seg.nrrd"
    command = [sys.executable, "-m", "protosam", "segment", an_image, "-o", out]
    command += ["--point", "3,4,5,+", "--box", "3,2,2,3,8,9", "--model", a_tiny_model]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert " ml, score " in done.stdout
    assert len(read_segmentation(out).segments) == 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ((), "no point and no box"),
        (("--point", "99,0,0,+"), "outside"),
        (("--point", "1,2"), "three numbers"),
        (("--point", "1,2,3,+", "--axis", "x"), "axis"),
        (("--point", "1,2,3,+", "--window", "9,1"), "window"),
        (("--point", "1,2,3,+", "--closing-mm", "-1"), "closing_mm"),
        (("--point", "1,2,3,+", "--smoothing-mm", "1000"), "smoothing_mm"),
        (("--point", "1,2,3,+", "--bodies", "-1"), "bodies"),
        (("--box", "1,2,3,1,2,3"), "flat"),
    ],
)
def test_what_was_asked_wrongly_is_one_line_and_exit_code_2(
    options: tuple[str, ...], sentence: str, an_image: Path, tmp_path: Path
) -> None:
    done = segment(an_image, tmp_path / "out.seg.nrrd", *options)
    assert done.exit_code == 2
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out.seg.nrrd").exists()


def test_an_output_that_cannot_be_written_is_refused_before_a_model_is_loaded(
    an_image: Path, tmp_path: Path
) -> None:
    unknown = segment(an_image, tmp_path / "out.txt", "--point", "1,2,3,+")
    assert (unknown.exit_code, "does not say what to write" in unknown.stderr) == (2, True)
    nowhere = segment(an_image, tmp_path / "no" / "out.nii.gz", "--point", "1,2,3,+")
    assert (nowhere.exit_code, "no folder" in nowhere.stderr) == (1, True)


def test_a_missing_image_and_missing_weights_are_told_apart_by_the_exit_code(
    an_image: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.nii.gz"
    image = segment(tmp_path / "none.nii.gz", out, "--point", "1,2,3,+")
    assert (image.exit_code, len(image.stderr.strip().splitlines())) == (2, 1)
    weights = segment(an_image, out, "--point", "1,2,3,+", "--model", "no-such-model")
    assert (weights.exit_code, "no-such-model" in weights.stderr) == (1, True)


def test_a_fault_of_the_program_keeps_its_traceback(
    an_image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self) -> float:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(InProcessEngine, "start", fail)
    done = segment(an_image, tmp_path / "out.nii.gz", "--point", "1,2,3,+")
    assert isinstance(done.exception, ZeroDivisionError)


def test_an_empty_answer_is_written_and_said(
    an_image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, a_block: np.ndarray
) -> None:
    def nothing(self, volume, job, on_progress) -> Answer:
        crop = np.zeros((0, 0, 0), dtype=bool)
        return Answer(None, crop, 0.0, Window(0, 1), "block", (), elapsed_s=0.1)

    monkeypatch.setattr(InProcessEngine, "segment", nothing)
    done = segment(an_image, tmp_path / "out.nii.gz", "--point", "1,2,3,+")
    assert done.exit_code == 0
    assert "empty" in done.stderr
    assert not read_labelmap(tmp_path / "out.nii.gz").voxels.any()


# -- the other commands


def test_the_built_in_model_is_the_one_that_the_library_takes_by_itself() -> None:
    assert Choice().model == DEFAULT_MODEL


def test_the_version_is_shown() -> None:
    assert runner.invoke(app, ["--version"]).stdout.strip() == f"protosam {__version__}"


def test_an_interactive_worker_explains_itself() -> None:
    done = runner.invoke(app, ["worker"])
    assert done.exit_code == 2
    assert "protosam worker" in done.stderr


def test_the_worker_command_speaks_the_protocol_and_ends_with_its_input() -> None:
    command = [sys.executable, "-m", "protosam", "worker", "--device", "cpu"]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=120
    )
    assert b'"hello"' in done.stdout
    assert b"Traceback" not in done.stderr


def test_the_list_of_weights_names_every_card(tmp_path: Path) -> None:
    done = runner.invoke(app, ["weights", "list", "--weights-dir", str(tmp_path)])
    assert done.exit_code == 0
    assert all(name in done.stdout for name in MODEL_CARDS)


def test_a_wrong_file_is_not_imported(tmp_path: Path) -> None:
    wrong = tmp_path / "sam_vit_b_01ec64.pth"
    wrong.write_bytes(b"not the weights")
    folder = tmp_path / "here"
    command = ["weights", "import", "sam_vit_b", str(wrong), "--weights-dir", str(folder)]
    done = runner.invoke(app, command)
    assert done.exit_code == 1
    assert "SHA-256" in done.stderr
    assert not (folder / wrong.name).exists()


def test_verify_names_the_file_that_is_not_its_cards(tmp_path: Path) -> None:
    (tmp_path / MODEL_CARDS["sam_vit_b"].file).write_bytes(b"not the weights")
    done = runner.invoke(app, ["weights", "verify", "sam_vit_b", "--weights-dir", str(tmp_path)])
    assert done.exit_code == 1
    assert "Not the files of their cards: sam_vit_b" in done.stderr


def test_nothing_is_fetched_without_consent(tmp_path: Path) -> None:
    command = ["weights", "fetch", "sam_vit_b", "--weights-dir", str(tmp_path)]
    done = runner.invoke(app, command, input="n\n")
    assert done.exit_code == 1
    assert "Nothing was downloaded" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_with_consent_the_weights_are_fetched_and_their_place_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetch(card, *, consent, folder, on_progress) -> WeightsStatus:
        asked.append((card.name, consent, folder))
        on_progress(1_000_000, None)
        on_progress(2_000_000, 4_000_000)
        return WeightsStatus(card, folder / card.file, "verified", "0" * 64)

    monkeypatch.setattr(install, "fetch_weights", fetch)
    command = ["weights", "fetch", "sam_vit_b", "--weights-dir", str(tmp_path)]
    for done in (runner.invoke(app, command, input="y\n"), runner.invoke(app, [*command, "--yes"])):
        assert done.exit_code == 0, done.output
        assert MODEL_CARDS["sam_vit_b"].file in done.stdout
    assert asked == [("sam_vit_b", True, tmp_path)] * 2


def test_an_interrupt_from_the_keyboard_cancels_the_request(
    a_volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    class Interrupted:
        def wait(self, timeout_s: float) -> None:
            calls.append("wait")
            if calls.count("wait") == 1:
                raise KeyboardInterrupt

        def cancel(self) -> None:
            calls.append("cancel")

    engine = WorkerEngine(Choice())
    monkeypatch.setattr(engine._client, "predict", lambda *_, **__: Interrupted())
    job = Job(PromptSet(points=(Point((1, 2, 3), True, "a"),)))
    with pytest.raises(Cancelled):
        engine.segment(a_volume, job, lambda *_: None)
    assert calls == ["wait", "cancel", "wait"]


def test_the_doctor_measures_the_start_of_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WorkerEngine, "start", lambda self: 1.5)
    assert doctor.examine()[-1] == doctor.Finding("worker", "ok", "ready after 1.5 s")

    def die(self) -> float:
        raise WorkerDied("It ended.", "Look at the log.")

    monkeypatch.setattr(WorkerEngine, "start", die)
    assert doctor.examine()[-1] == doctor.Finding("worker", "broken", "It ended. Look at the log.")


def test_the_doctor_warns_of_too_little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LEAST_MEMORY_GB", 1e9)
    monkeypatch.setattr(doctor, "LEAST_DISK_GB", 1e9)
    states = {one.what: one.state for one in doctor.examine(start_worker=False)}
    assert (states["memory"], states["disk"]) == ("warning", "warning")


def test_the_doctor_finds_what_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = doctor.examine(start_worker=False)
    assert {"Python", "torch", "device", "memory", "disk"} <= {one.what for one in findings}
    monkeypatch.setattr(doctor, "examine", lambda: [doctor.Finding("Python", "ok", "3.11")])
    assert runner.invoke(app, ["doctor"]).exit_code == 0
    broken = [doctor.Finding("worker", "broken", "It died.")]
    monkeypatch.setattr(doctor, "examine", lambda: broken)
    done = runner.invoke(app, ["doctor"])
    assert (done.exit_code, "It died." in done.stdout) == (1, True)


def test_evaluate_plays_a_folder_and_writes_its_report(tmp_path: Path) -> None:
    truth = np.zeros((6, 20, 20), dtype=np.uint8)
    truth[1:5, 5:15, 6:16] = 1
    _write(tmp_path / "one_img.nii.gz", (truth * 100).astype(np.int16))
    _write(tmp_path / "one_lab.nii.gz", truth)
    (tmp_path / "labels.json").write_text('{"1": "block"}')
    report = tmp_path / "report.json"
    command = ["evaluate", "--data", str(tmp_path), "--engine", "random-walker"]
    command += ["--clicks", "2", "--scope", "slice", "--json", str(report)]
    done = runner.invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "block" in done.stdout
    document = json.loads(report.read_text())
    assert set(document) == {"protocol", "machine", "cases", "mean", "per_label"}
    assert len(document["mean"]["dice"]) == 2
    assert "picture_margin" in document["protocol"]["engine_settings"]

    done = runner.invoke(app, [*command, "--region-mm", "1000"])
    assert done.exit_code == 0, done.output
    settings = json.loads(report.read_text())["protocol"]["engine_settings"]
    assert settings["region_mm"] == 1000
    assert "picture_margin" not in settings


def test_train_base_passes_its_options_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def train(settings, *, data, out, resume, on_progress) -> Path:
        seen.update(settings=settings, data=data, out=out, resume=resume)
        on_progress(TrainingProgress("train", 1, 2, "IoU 0.5"))
        return out / "checkpoint.pt"

    monkeypatch.setattr(recipe, "train_base", train)
    command = ["train-base", "--data", str(tmp_path), "--out", str(tmp_path / "run")]
    done = runner.invoke(app, [*command, "--steps", "30", "--decay-steps", "3", "--seed", "9"])
    assert done.exit_code == 0, done.output
    assert "checkpoint.pt" in done.stdout
    settings = seen["settings"]
    assert (settings.steps, settings.decay_steps, settings.seed) == (30, 3, 9)
    assert (seen["data"], seen["out"], seen["resume"]) == (tmp_path, tmp_path / "run", False)


def test_train_base_resumes_with_the_settings_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def train(settings, *, data, out, resume, on_progress) -> Path:
        seen.append((settings, resume))
        return out / "checkpoint.pt"

    monkeypatch.setattr(recipe, "train_base", train)
    settings = TrainBaseSettings(steps=40, decay_steps=4, seed=3)
    (tmp_path / "settings.json").write_text(settings.to_json())
    done = runner.invoke(app, ["train-base", "--out", str(tmp_path), "--resume"])
    assert done.exit_code == 0, done.output
    assert seen == [(settings, True)]


def test_train_base_refuses_settings_that_cannot_be_read(tmp_path: Path) -> None:
    command = ["train-base", "--out", str(tmp_path / "run"), "--settings", str(tmp_path / "none")]
    done = runner.invoke(app, command)
    assert done.exit_code == 2
    assert "settings" in done.stderr


# -- the demonstration


@pytest.mark.slow
def test_the_demo_segments_the_phantom_and_a_volume_of_the_user(
    tmp_path: Path, a_tiny_model: Path, a_phantom: Phantom
) -> None:
    image, out = tmp_path / "Doe_John.nrrd", tmp_path / "out"
    _write(image, a_phantom.volume.voxels[20:40:4, ::4, ::4])
    command = ["demo", "--out", str(out), "--image", str(image), "--model", str(a_tiny_model)]
    done = runner.invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "No points were given" in done.stdout
    names = {path.name for path in out.iterdir()}
    assert names == {
        f"{subject}{ending}"
        for subject in ("phantom", "image")
        for ending in (".seg.nrrd", ".png", "_timings.json")
    }
    timings = json.loads((out / "phantom_timings.json").read_text())
    assert {"start the worker", "click 1, slice", "click 1, volume"} <= set(timings["seconds"])
    assert 0 <= timings["dice"] <= 1
    assert "Doe" not in (out / "image_timings.json").read_text()


def test_the_phantom_is_the_same_on_every_call_and_its_clicks_are_right(
    a_phantom: Phantom,
) -> None:
    one, two = a_phantom, make_phantom()
    assert one.volume.uid == two.volume.uid
    assert [bool(one.truth[place]) for place, _ in one.clicks] == [hit for _, hit in one.clicks]
    assert 0.03 < one.truth.mean() < 0.2


def test_the_first_click_of_the_demo_falls_into_a_large_even_body(a_phantom: Phantom) -> None:
    assert a_phantom.truth[bright_body_centre(a_phantom.volume)]


def test_the_first_click_of_the_demo_works_in_a_single_slice(a_phantom: Phantom) -> None:
    volume = a_phantom.volume
    place = bright_body_centre(Volume(volume.voxels[30:31], volume.affine))
    assert a_phantom.truth[30, place[1], place[2]]


def test_a_constant_image_has_no_place_for_a_first_click() -> None:
    with pytest.raises(InvalidInput):
        bright_body_centre(Volume(np.full((4, 5, 6), 7, np.int16), np.eye(4)))


@pytest.mark.parametrize("shape", [(9, 12, 14), (1, 12, 14)])
def test_the_picture_shows_outline_and_clicks(
    shape: tuple[int, int, int], tmp_path: Path, a_volume: Volume
) -> None:
    volume = Volume(a_volume.voxels[: shape[0]], a_volume.affine)
    mask = np.zeros(shape, dtype=bool)
    mask[:, 4:9, 5:10] = True
    clicks = (Point((0, 6, 7), True, "a"), Point((0, 1, 1), False, "b"))
    path = tmp_path / "picture.png"
    draw_segment(path, volume, mask, window=Window(-1000, 1500), points=clicks)
    pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
    for colour in ((0xFF, 0xB0, 0x00), (0x35, 0xD0, 0x4F), (0xFF, 0x40, 0x40)):
        assert (np.abs(pixels.astype(int) - colour).max(axis=1) < 30).any()


def test_the_planes_of_the_picture_go_through_the_thick_of_the_mask() -> None:
    mask = np.zeros((5, 6, 7), dtype=bool)
    assert middle_of(mask) == (2, 3, 3)
    mask[1, 1:4, 2:6] = True
    mask[4, 5, 6] = True
    assert middle_of(mask)[0] == 1


def test_train_base_export_writes_weights_and_trains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}

    def export_base(run, target, *, figures, machine):
        seen.update(run=run, target=target, figures=figures, machine=machine)
        return SimpleNamespace(weights=target / "protosam-tiny.safetensors", size_bytes=8_700_000)

    monkeypatch.setattr(export_of_base, "export_base", export_base)
    report = tmp_path / "report.json"
    report.write_text('{"mean": {"dice": [0.5]}}', encoding="utf-8")
    run, target = tmp_path / "run", tmp_path / "weights"
    command = ["train-base", "--out", str(run), "--export", str(target), "--figures", str(report)]
    done = runner.invoke(app, command)

    assert done.exit_code == 0, done.output
    assert "8.7 MB" in done.stdout
    assert (seen["run"], seen["target"]) == (run, target)
    assert seen["figures"] == {"mean": {"dice": [0.5]}}
    assert seen["machine"]["cores"] > 0


def test_figures_that_are_not_json_are_a_sentence(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    report.write_text("nothing", encoding="utf-8")
    command = ["train-base", "--out", str(tmp_path), "--export", str(tmp_path)]
    done = runner.invoke(app, [*command, "--figures", str(report)])

    assert done.exit_code == 2
    assert "is not JSON" in done.stderr
