"""Who a series is of, told apart without being told: keyed digests and shifted days.

Rules
-----
* A patient is the first letters of a keyed digest of the id; the key is random, lies in a file of
  its own beside the results, and is readable by its owner only. Without it nobody can try ids.
* A day is counted on a calendar shifted for each patient by as many days as the key says: how far
  two studies lie apart stays true, and when they were is hidden.
* Ids and dates themselves pass through here only where the user wants to see them.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

from protosam.errors import UnreadableFile
from protosam.storage import atomic_path

KEY_FILE = ".patient-key"
KEY_BYTES = 32

LETTERS = 8
"""Of the digest; two of 1000 patients get the same with a probability of 1 to 10 000."""

LARGEST_SHIFT_DAYS = 200_000


@dataclass(frozen=True)
class Whose:
    """Patient and time of a study, as far as they are told."""

    patient: str = ""
    """Digest, or the id where it is to be shown; '' where the header has none."""
    day: int | None = None
    """Day on the patient's shifted calendar."""
    date: str = ""
    """Year, month and day where they are to be shown."""


def patient_key(folder: Path) -> bytes:
    """Key of a batch, made with the first use.

    Raises
    ------
    StorageFailure
        It cannot be written.
    UnreadableFile
        It is there and cannot be read, or is too short.
    """
    path = folder / KEY_FILE
    if not path.exists():
        with atomic_path(path) as temporary:
            temporary.write_bytes(secrets.token_bytes(KEY_BYTES))
        path.chmod(0o600)
    try:
        key = path.read_bytes()
    except OSError as error:
        raise UnreadableFile(
            f"{path} cannot be read: {error.strerror}.", "Run it as the user who began the batch."
        ) from error
    if len(key) != KEY_BYTES:
        raise UnreadableFile(
            f"{path} holds {len(key)} bytes, wanted {KEY_BYTES}.", "Choose another folder."
        )
    return key


def whose(patient_id: str, study_date: str, key: bytes, *, show: bool) -> Whose:
    """Tell a patient and a day apart from others.

    Parameters
    ----------
    patient_id : str
        As in the header; '' where there is none.
    study_date : str
        As in the header: YYYYMMDD.
    key : bytes
        From `patient_key`.
    show : bool
        Whether id and date are to be seen.
    """
    if not patient_id:
        return Whose()
    digest = hmac.new(key, patient_id.encode(), hashlib.sha256).digest()
    day = _date(study_date)
    shift = int.from_bytes(digest[-4:], "big") % LARGEST_SHIFT_DAYS
    return Whose(
        patient_id if show else digest.hex()[:LETTERS],
        None if day is None else day.toordinal() - shift,
        day.isoformat() if show and day is not None else "",
    )


def _date(text: str) -> date | None:
    try:
        return datetime.strptime(text, "%Y%m%d").date()
    except ValueError:
        return None
