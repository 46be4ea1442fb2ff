"""A batch from source to report with the small built-in model, and the command."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from phantom_series import Ids, Layout, write_series
from typer.testing import CliRunner

from protosam.batch.finding import Case
from protosam.batch.lanes import LanePool
from protosam.batch.patients import KEY_FILE
from protosam.batch.prompts import PromptLine
from protosam.batch.session import Plan, check_plan, order_digest, run_batch
from protosam.batch.ways import AutoFile, Recipe
from protosam.cli.app import app
from protosam.dicom.transport import Server
from protosam.errors import InvalidInput
from protosam.geometry import Volume, kji_to_ras
from protosam.metrics import dice
from protosam.models.load import load_model
from protosam.prompting.example_file import save_example
from protosam.prompting.making import make_example
from protosam.seg_nrrd import Segment, read_segmentation

CENTRE = (12.0, 12.0, 12.0)


def ball_of(volume: Volume) -> np.ndarray:
    return ((np.indices(volume.shape_kji) - 12) ** 2).sum(axis=0) < 30


def line_at(volume: Volume, series: str, structure: str = "liver") -> PromptLine:
    place = tuple(float(x) for x in kji_to_ras(volume.affine, [CENTRE])[0])
    return PromptLine(series, structure, "positive", (place,))


@pytest.fixture
def a_folder(tmp_path: Path, a_ball: Volume) -> Path:
    """Two scans of one phantom, and a file that is none."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for name in ("Mustermann-1.nii.gz", "Mustermann-2.nii.gz"):
        image = nibabel.Nifti1Image(np.asarray(a_ball.voxels).transpose(2, 1, 0), a_ball.affine)
        nibabel.save(image, folder / name)
    (folder / "Mustermann-3.nii.gz").write_bytes(b"nothing")
    return folder


@pytest.fixture
def a_table(tmp_path: Path, a_ball: Volume) -> Path:
    lines = [line_at(a_ball, f"Mustermann-{n}.nii.gz") for n in (1, 2)]
    rows = [
        f"{one.series},{one.structure},{one.kind},"
        + ",".join(f"{x:g}" for x in one.places_ras_mm[0])
        for one in lines
    ]
    path = tmp_path / "prompts.csv"
    path.write_text("series,structure,kind,r,a,s\n" + "\n".join(rows) + "\n")
    return path


def lines_in(out: Path) -> list[dict[str, str]]:
    with (out / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_the_command_segments_a_folder_from_a_table(tmp_path: Path, a_folder, a_table, a_ball):
    out = tmp_path / "out"
    order = ["batch", str(a_folder), "-o", str(out), "--prompts", str(a_table), "--device", "cpu"]
    shown = CliRunner().invoke(app, order)
    assert shown.exit_code == 0, shown.output
    lines = lines_in(out)
    assert sorted(line["status"] for line in lines) == ["done", "done", "refused"]
    for line in lines:
        if line["status"] == "done":
            (segment,) = read_segmentation(out / line["file"]).segments
            assert dice(segment.mask, ball_of(a_ball)) > 0.8
            assert line["code"] == "SCT 10200004 Liver"
            assert 0 < float(line["confidence"]) <= 1
    told = [*out.rglob("*"), *(p for p in out.rglob("*") if p.is_file())]
    assert not any("Mustermann" in path.name for path in told)
    kept = [p for p in out.rglob("*") if p.is_file() and p.name != KEY_FILE]
    assert not any(b"Mustermann" in path.read_bytes() for path in kept)
    assert "Mustermann" not in shown.output
    again = CliRunner().invoke(app, order)
    assert again.exit_code == 0 and lines_in(out) == lines


@pytest.mark.slow
def test_an_example_and_earlier_segments_find_the_ball(tmp_path: Path, a_ball: Volume):
    model = load_model(device="cpu")
    truth = Segment("liver", ball_of(a_ball))
    save_example(make_example(model, a_ball, [truth]), tmp_path / "ball.psexample")
    recipe = Recipe(
        device="cpu",
        examples=(tmp_path / "ball.psexample",),
        lines=(line_at(a_ball, "scan", "spleen"),),
        from_seg=True,
        structures=("liver", "spleen", "kidney"),
    )
    assert [name for name, _ in recipe.known_structures()] == ["liver", "spleen"]
    earlier = (Segment("kidney", truth.mask), Segment("aorta", truth.mask))
    found = recipe.open().find(Case(a_ball, ("scan",), earlier))
    assert [one.segment.name for one in found] == ["liver", "spleen", "kidney"]
    for one in found:
        assert dice(one.segment.mask, truth.mask) > 0.7
        assert one.slices and all(0 <= value <= 1 for value in one.slices.values())
    assert recipe.open().algorithm.kind == "SEMIAUTOMATIC"


def test_a_series_that_nothing_is_said_of_is_refused(a_ball: Volume):
    recipe = Recipe(device="cpu", lines=(line_at(a_ball, "scan"),))
    with pytest.raises(InvalidInput, match="Nothing says what to segment"):
        recipe.open().find(Case(a_ball, ("other",)))


@pytest.fixture
def a_plan(tmp_path: Path, a_ball: Volume) -> Plan:
    (tmp_path / "in").mkdir()
    recipe = Recipe(device="cpu", lines=(line_at(a_ball, "scan"),))
    return Plan(tmp_path / "in", tmp_path / "out", recipe)


def test_results_never_go_into_the_source(a_plan: Plan):
    for out in (a_plan.source, a_plan.source / "sub", a_plan.source / ".." / "in"):
        with pytest.raises(InvalidInput, match="into the source"):
            check_plan(replace(a_plan, out=out))
    check_plan(a_plan)


def test_what_cannot_succeed_is_refused_before_the_first_series(a_plan: Plan, a_ball: Volume):
    def with_recipe(**changes) -> Plan:
        return replace(a_plan, recipe=replace(a_plan.recipe, **changes))

    with pytest.raises(InvalidInput, match="no PACS"):
        check_plan(replace(a_plan, source="1.2.3"))
    with pytest.raises(InvalidInput, match="no PACS"):
        check_plan(replace(a_plan, store=True))
    with pytest.raises(InvalidInput, match="no code for the structure 'livver'"):
        check_plan(with_recipe(lines=(line_at(a_ball, "scan", "livver"),)))
    check_plan(
        replace(with_recipe(lines=(line_at(a_ball, "scan", "livver"),)), forms=("seg.nrrd",))
    )
    with pytest.raises(InvalidInput, match="Nothing finds spleen"):
        check_plan(with_recipe(structures=("spleen",)))
    with pytest.raises(InvalidInput, match="found twice"):
        check_plan(with_recipe(autos=(AutoFile("Liver", Path("x.auto")),)))
    with pytest.raises(InvalidInput, match="Nothing says what is to be segmented"):
        Recipe()


def test_another_version_of_an_adapter_is_another_order(a_plan: Plan, tmp_path: Path):
    named = tmp_path / "heart"
    for version in (1, 2):
        folder = named / f"v00{version}"
        folder.mkdir(parents=True)
        (folder / "adapter_model.safetensors").write_bytes(bytes([version]))
    digests = []
    for version in (1, 1, 2):
        note = {"format": 1, "version": version, "before": []}
        (named / "active.json").write_text(json.dumps(note), encoding="utf-8")
        recipe = replace(a_plan.recipe, adapter=str(named))
        digests.append(order_digest(replace(a_plan, recipe=recipe)))
    assert digests[0] == digests[1] != digests[2]


def test_the_same_options_have_the_same_digest_and_others_another(a_plan: Plan):
    digest = order_digest(a_plan)
    same = replace(a_plan, recipe=replace(a_plan.recipe, device="cuda"), show_patient=True)
    assert order_digest(same) == digest
    assert order_digest(replace(a_plan, straighten=True)) != digest
    assert order_digest(replace(a_plan, forms=("rtstruct",))) != digest
    assert (
        order_digest(replace(a_plan, recipe=replace(a_plan.recipe, lines=(), from_seg=True)))
        != digest
    )


def test_a_server_that_is_down_ends_the_batch_with_a_next_step(a_plan: Plan):
    server = Server("http://127.0.0.1:9/dicom-web", attempts=1, connect_s=1)
    plan = replace(a_plan, source="1.2.3", server=server)
    with pytest.raises(Exception, match="failed at listing series") as caught:
        run_batch(plan, LanePool)
    assert caught.value.next_step


def test_a_folder_without_a_series_gives_an_empty_report(a_plan: Plan):
    summary = run_batch(a_plan, LanePool)
    assert summary.rows == () and not summary.was_stopped
    assert (a_plan.out / "report.html").is_file() and lines_in(a_plan.out) == []


def test_a_study_of_refused_series_ends_with_a_row_each(a_plan: Plan):
    write_series(a_plan.source, Layout(depths=(0, 2.5, 7.5, 10)), Ids.new())
    summary = run_batch(a_plan, LanePool)
    assert [row.status for row in summary.rows] == ["refused"]
    assert lines_in(a_plan.out)[0]["status"] == "refused"
