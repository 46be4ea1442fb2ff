"""Has base, current and candidate play one after another, and asks the gate.

Owns the order, what is kept of the answers for pictures, and the progress. One model is in memory
beside the base. Speaks no coordinates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from protosam.learn.division import OTHER_PATIENTS, Judge
from protosam.learn.finished_cases import OnProgress
from protosam.learn.gate import Contender, GateReport, judge, wholes_of
from protosam.learn.gate_boards import Board, boards_of, whole_objects
from protosam.learn.gate_pictures import FirstAnswers, draw_pictures
from protosam.learn.gate_play import Marks, can_play_wholes, measure, measure_wholes
from protosam.learn.sentinels import elsewhere_boards
from protosam.models.slice_model import SliceModel
from protosam.robot import Target


@dataclass(frozen=True, eq=False)
class Games:
    """What everyone plays."""

    boards: tuple[Board, ...]
    """Slices, by which the gate decides."""
    wholes: tuple[Target, ...]
    """Whole objects, which it tells of."""
    validation: str
    """`division.OTHER_PATIENTS` or `division.SAME_PATIENTS`."""


def games_of(
    judges: Sequence[Judge], names: dict[int, str], validation: str, base: SliceModel
) -> Games:
    """Choose what is played; whole objects only of patients who taught nothing.

    Parameters
    ----------
    judges : sequence of Judge
    names : dict
        Name of each label.
    validation : str
        `division.OTHER_PATIENTS` or `division.SAME_PATIENTS`.
    base : SliceModel
        Whole objects are left out where it needs minutes for one.

    Raises
    ------
    InvalidInput
        When no judge has an object large enough.
    """
    boards = (*boards_of(judges, names), *elsewhere_boards())
    played = validation == OTHER_PATIENTS and can_play_wholes(base)
    return Games(boards, tuple(whole_objects(judges, names)) if played else (), validation)


def judged(
    games: Games,
    contenders: dict[Contender, Callable[[], SliceModel]],
    folder: Path,
    on_progress: OnProgress,
) -> GateReport:
    """Let everyone play, draw what has changed into a folder, and judge.

    Parameters
    ----------
    games : Games
    contenders : dict
        What loads each model; where there is no current one, the base stands for it.
    folder : Path
        For the pictures.
    on_progress : (fraction, text) -> None
        Called before each game; may raise `Cancelled`.

    Raises
    ------
    ProtoSAMError
        What loading, playing and writing raise.
    """
    marks: dict[Contender, list[Marks]] = {}
    dice: dict[Contender, list[float]] = {}
    answers, each = FirstAnswers(), len(games.boards) + len(games.wholes)
    for place, (who, load) in enumerate(contenders.items()):

        def on_game(number: int, text: str = f"gate: {who}", begun: int = place * each) -> None:
            on_progress((begun + number) / (each * len(contenders)), text)

        def on_whole(number: int, show: Callable[[int], None] = on_game) -> None:
            show(len(games.boards) + number)

        model = load()
        marks[who] = measure(model, games.boards, on_board=on_game, on_first=answers.of(who))
        dice[who] = measure_wholes(model, games.wholes, on_target=on_whole)
    marks.setdefault("current", marks["base"])
    dice.setdefault("current", dice["base"])
    report = judge(games.boards, marks, games.validation, wholes_of(games.wholes, dice))
    draw_pictures(folder, games.boards, report, answers)
    return report
