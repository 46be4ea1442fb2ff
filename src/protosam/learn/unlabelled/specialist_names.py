"""Which file ``specialist:NAME`` means.

Owns the lookup in the folder of adapters. Takes no time to import. Speaks no coordinates.
"""

from __future__ import annotations

from pathlib import Path

from protosam.errors import InvalidInput
from protosam.learn.adapters import AdapterStore
from protosam.learn.unlabelled.methods import SPECIALIST
from protosam.models.specialist_card import FILE


def find_specialist(name: str, adapters_dir: Path | None = None) -> Path:
    """File that ``specialist:NAME`` means.

    Parameters
    ----------
    name : str
        With or without ``specialist:``: a name in the store, whose active version is meant, or a
        path of a file or of a version's folder.
    adapters_dir : Path, optional
        Folder of the adapters; the user's own if None.

    Raises
    ------
    InvalidInput
        When there is no active specialist of that name.
    """
    plain = name.removeprefix(SPECIALIST)
    given = Path(plain)
    if given.is_file():
        return given
    if (given / FILE).is_file():
        return given / FILE
    path = AdapterStore(adapters_dir).active_path(plain)
    if path is None or not (path / FILE).is_file():
        what = "no active specialist" if path is None else "an adapter, not a specialist,"
        raise InvalidInput(
            f"There is {what} of the name {plain!r}.",
            "`protosam adapters list` shows what there is; `protosam adapt --method semisam` "
            "makes one.",
        )
    return path / FILE
