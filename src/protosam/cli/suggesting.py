"""`protosam segment --auto`: clicks from a file of train-auto, where the user gives none.

Owns the way from a file's name to prompts. The clicks are shown as options, so that the next call
can have them moved or left out. Indices are (k, j, i).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from protosam.cli.engines import Choice
from protosam.cli.screen import messages
from protosam.geometry import Volume
from protosam.intensity import Window
from protosam.prompts import PromptSet, Scope

if TYPE_CHECKING:
    from protosam.cli.screen import Bar


def suggested_prompts(
    auto: str,
    volume: Volume,
    choice: Choice,
    look: tuple[Window | None, int | None, Scope],
    bar: Bar,
) -> PromptSet:
    """Suggest prompts and say so; empty where the object was not found.

    Parameters
    ----------
    auto : str
        Name or file of automatic prompts.
    volume : Volume
    choice : Choice
        Model and device; the adapter is left out, because it was not there in training.
    look : window, axis and scope
    bar : Bar

    Raises
    ------
    ModelUnavailable, WeightsRefused
        The model or the file cannot be used.
    """
    from protosam.learn.train_shift import weights_of
    from protosam.models.add_ons import find_add_on
    from protosam.models.load import load_model
    from protosam.prompting.auto import load_auto
    from protosam.prompting.propose import Look, suggest

    model = load_model(choice.model, weights_dir=choice.weights_dir, device=choice.device)
    prompter = load_auto(find_add_on(Path(auto)), base_sha256=weights_of(model))
    window, axis, scope = look
    found = suggest(volume, model, prompter, Look(window, axis, scope), on_progress=bar)
    messages().print(found.note, style="yellow", markup=False)
    for point in found.prompts.points:
        k, j, i = (f"{value:g}" for value in point.point_kji)
        sign = "+" if point.positive else "-"
        messages().print(f"  --point {k},{j},{i},{sign}", markup=False)
    return found.prompts
