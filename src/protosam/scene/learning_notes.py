"""What learning says: its status, and sentences with their next step.

Rules
-----
* There is one sentence at a time, about what was done last.
* An action publishes what it has changed; what the worker says is published by who drains it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from protosam.errors import ProtoSAMError
from protosam.scene.case_saving import CaseSaving
from protosam.scene.desk import Desk
from protosam.scene.editing import Place
from protosam.scene.learning_status import LEARNING_TEXTS, LearningStatus
from protosam.scene.status import Level
from protosam.wire.messages import AdapterInfo


class LearningNotes:
    """The part of a learning desk that says things; see `LearningDesk`."""

    def __init__(
        self,
        desk: Desk,
        place: Place,
        saving: CaseSaving,
        translate: Callable[[str], str],
        publish: Callable[[], None],
    ) -> None:
        self._desk, self._place, self._saving = desk, place, saving
        self._translate, self._publish = translate, publish
        self._status = LearningStatus()

    def status(self) -> LearningStatus:
        """Everything that a panel shows about learning."""
        now, name = self._status, self._place.settings.adapter
        version, run = self._active(name), now.run
        accepted = now.verdict is not None and now.verdict.version.accepted
        has_cases = now.cases is not None and now.cases.cases > 0
        return replace(
            now,
            patient_known=bool(self._saving.patient()),
            can_save=not now.saving and self._saving.has_finished(),
            adapter=name,
            version=None if version is None else version.number,
            offered=run.name if accepted and run.name != name else "",
            can_start=bool(now.folder) and has_cases and not run.is_on,
        )

    def _active(self, name: str) -> AdapterInfo | None:
        """Version that a name means; None if there is none."""
        found = (one for one in self._status.adapters if one.name == name and one.active)
        return next(found, None) if name else None

    def _text(self, key: str, **said: Any) -> str:
        return self._translate(LEARNING_TEXTS[key]).format(**said) if key else ""

    def _refused_by(self, error: ProtoSAMError) -> bool:
        """Say why an action cannot be done; False."""
        self._failed(error)
        self._publish()
        return False

    def _failed(self, error: ProtoSAMError) -> None:
        """Say what went wrong, in the words of the error."""
        first, _, _ = error.message.partition("\n")
        self._set_note("error", first.removesuffix(" Its last lines were:"), error.next_step)

    def _note(
        self, level: Level, key: str, step: str = "", *, publish: bool = True, **said: Any
    ) -> bool:
        """Say something by the keys of its texts; False, for what refuses."""
        self._set_note(level, self._text(key, **said), self._text(step, **said))
        if publish:
            self._publish()
        return False

    def _set_note(self, level: Level, message: str, next_step: str) -> None:
        self._status = replace(self._status, level=level, message=message, next_step=next_step)

    def _clear_note(self) -> None:
        self._set_note("info", "", "")
