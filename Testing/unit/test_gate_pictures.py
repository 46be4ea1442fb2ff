"""Pictures of what an adapter has changed: which objects, drawn from what the gate has answered."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from protosam.errors import StorageFailure, WeightsRefused
from protosam.geometry import Volume
from protosam.learn.adapter_cards import AdapterCard, verify_files
from protosam.learn.adapters import AdapterStore
from protosam.learn.gate import GateReport, judge
from protosam.learn.gate_boards import Board
from protosam.learn.gate_pictures import FirstAnswers, chosen, draw_pictures
from protosam.learn.gate_play import Marks, measure
from protosam.models.tiny import TinySAM, TinySettings
from protosam.models.tiny_predictor import TinySliceModel
from protosam.robot import Plane, Target

CPU = torch.device("cpu")
SMALL = TinySettings(
    embed_dim=32, stem_widths=(12, 24, 24), trunk_dim=48, trunk_depth=2, trunk_heads=2
)


def a_board(axis: int = 0, *, elsewhere: bool = False) -> Board:
    """Bright ball of voxels of 1 x 2 x 3 mm, in one slice across an axis."""
    k, j, i = np.ogrid[:30, :40, :50]
    ball = (k - 15) ** 2 + (j - 20) ** 2 + (i - 25) ** 2 <= 64
    volume = Volume((ball * 100).astype(np.int16), np.diag([3.0, 2.0, 1.0, 1.0]))
    plane = Plane(axis, (15, 20, 25)[axis])
    return Board(Target("patient 7", 1, "ball", volume, ball, plane), False, elsewhere)


def a_report(boards: Sequence[Board], gains: Sequence[float]) -> GateReport:
    before = [Marks((0.9, 0.5, 0.6), 1.0) for _ in boards]
    now = [Marks((0.1, 0.5 + gain, 0.6), 1.0) for gain in gains]
    return judge(boards, {"base": before, "current": before, "new": now}, "validated")


def answers_to(boards: Sequence[Board], *, with_current: bool = True) -> FirstAnswers:
    """Answers that are the truth, and now one that is half of it."""
    answers = FirstAnswers()
    for number, board in enumerate(boards):
        truth = board.target.board(board.target.truth)
        half = truth.copy()
        half[: len(half) // 2] = False
        answers.of("base")(number, np.zeros_like(truth))
        if with_current:
            answers.of("current")(number, truth)
        answers.of("new")(number, half)
    return answers


def colours_in(path: Path) -> set[str]:
    """Which of the three lines are there: pixels that come near their colours."""
    wanted = {"truth": (1, 1, 1), "before": (0.90, 0.62, 0), "now": (0.34, 0.71, 0.91)}
    pixels = imread(path)[25:, :, :3]  # without the title, which is white
    return {n for n, c in wanted.items() if (np.abs(pixels - c).max(axis=2) < 0.1).sum() > 20}


def test_the_largest_gain_and_loss_are_shown_and_two_in_between() -> None:
    boards = [a_board() for _ in range(7)]
    report = a_report(boards, (0.1, -0.2, 0.0, 0.3, 0.2, -0.1, 0.05))
    assert chosen(report) == (3, 0, 2, 1)


def test_few_objects_are_shown_once_each_and_never_what_nobody_taught() -> None:
    boards = [a_board(elsewhere=True), a_board(), a_board(elsewhere=True), a_board()]
    assert chosen(a_report(boards, (0.4, 0.1, -0.4, 0.2))) == (3, 1)
    assert chosen(a_report(boards[:2], (0.4, 0.1))) == (1,)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_picture_shows_the_slice_and_the_three_lines(tmp_path: Path, axis: int) -> None:
    boards = [a_board(axis)]
    answers = FirstAnswers()
    truth = boards[0].target.board(boards[0].target.truth)
    for who, shift in (("current", 4), ("new", -4)):
        answers.of(who)(0, np.roll(truth, shift, axis=1))  # type: ignore[arg-type]
    (path,) = draw_pictures(tmp_path, boards, a_report(boards, (0.1,)), answers)
    assert path == tmp_path / "before-after-1.png"
    assert path.stat().st_size < 200_000
    assert colours_in(path) == {"truth", "before", "now"}


def test_without_a_current_version_the_bare_model_is_what_was_before(tmp_path: Path) -> None:
    boards = [a_board()]
    answers = answers_to(boards, with_current=False)
    (path,) = draw_pictures(tmp_path, boards, a_report(boards, (0.1,)), answers)
    assert colours_in(path) == {"truth", "now"}  # the bare model has found nothing


def test_an_object_at_the_edge_and_one_of_a_pixel_can_be_drawn(tmp_path: Path) -> None:
    board = a_board()
    truth = np.zeros_like(board.target.truth)
    truth[15, 0, 0] = True
    boards = [dataclasses.replace(board, target=dataclasses.replace(board.target, truth=truth))]
    report = a_report(boards, (0.1,))
    assert draw_pictures(tmp_path, boards, report, answers_to(boards))
    assert draw_pictures(tmp_path, boards, report, FirstAnswers()) == ()


def test_a_picture_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    boards = [a_board()]
    with pytest.raises(StorageFailure):
        draw_pictures(tmp_path / "no", boards, a_report(boards, (0.1,)), answers_to(boards))


def test_the_gate_hands_out_the_answers_after_the_first_click() -> None:
    torch.manual_seed(0)
    model = TinySliceModel(TinySAM(SMALL), name="small", digest="d", device=CPU)
    boards, found = [a_board(), a_board(1)], FirstAnswers()
    with_them = measure(model, boards, on_board=lambda _n: None, on_first=found.of("new"))
    assert with_them == measure(model, boards, on_board=lambda _n: None)
    found.of("base")(0, np.zeros((40, 50), dtype=np.bool_))
    found.of("base")(1, np.zeros((30, 50), dtype=np.bool_))
    for number, board in enumerate(boards):
        pair = found.pair(number)
        assert pair is not None
        truth = board.target.board(board.target.truth)
        union = np.count_nonzero(pair[1]) + np.count_nonzero(truth)
        dice = 2 * np.count_nonzero(pair[1] & truth) / union
        assert dice == pytest.approx(with_them[number].dice[1])


def test_pictures_stay_in_the_users_folder_when_a_version_is_exported(tmp_path: Path) -> None:
    card = AdapterCard(
        tier="decoder",
        base_name="small",
        base_sha256="0" * 64,
        labels=("ball",),
        cases=("a",),
        held_out=("b",),
        seed=3,
        settings={"steps": 2},
        figures={"loss": 0.5},
        gate={"accepted": True},
    )

    def write(folder: Path) -> None:
        (folder / "adapter_model.safetensors").write_text("weights")
        for number in (1, 2):
            (folder / f"before-after-{number}.png").write_bytes(b"\x89PNG")

    store = AdapterStore(tmp_path / "adapters")
    version = store.add("ball", card, write, activate=True)
    assert [path.name for path in version.pictures] == ["before-after-1.png", "before-after-2.png"]
    exported = store.export("ball", tmp_path / "out")
    assert sorted(p.name for p in exported.iterdir()) == ["adapter_model.safetensors", "card.json"]
    verify_files(exported)
    assert "before-after" not in (exported / "card.json").read_text()
    version.pictures[0].write_bytes(b"changed")
    version.pictures[1].unlink()
    store.activate("ball", version.number)
    store.export("ball", tmp_path / "again")
    (version.folder / "adapter_model.safetensors").write_text("others")
    with pytest.raises(WeightsRefused, match="was changed"):
        store.export("ball", tmp_path / "third")


def test_pictures_that_an_older_card_speaks_for_may_be_gone_too(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("here")
    digest = sha256(b"here").hexdigest()
    files = {"weights": digest, "before-after-1.png": digest}
    (tmp_path / "card.json").write_text(json.dumps({"format": 1, "files": files}))
    verify_files(tmp_path)
    (tmp_path / "weights").unlink()
    with pytest.raises(WeightsRefused, match="missing"):
        verify_files(tmp_path)
