"""Which cases teach and which are held out: decided by the patient, once and for all.

Owns the rule. A patient's key is hashed with a salt; the hash alone says which role all cases of
that patient have, so that adding cases never moves another one, and two images of one patient are
never on both sides. Knows nothing of files and images. Speaks no coordinates.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Literal, get_args

from protosam.errors import InvalidInput

Role = Literal["train", "held-out"]
"""What a case is for."""

ROLES: tuple[Role, ...] = get_args(Role)

HELD_OUT_SHARE = 0.25
"""Share of the patients that are held out, in the long run."""

_MOMENT = re.compile(r"_(?:frame|phase|time|visit|scan|t|ed|es)\d*$", re.IGNORECASE)


def patient_hash(key: str, salt: str = "") -> str:
    """Hash of a patient's key: 32 hexadecimal digits of HMAC-SHA-256.

    Parameters
    ----------
    key : str
        Whatever tells patients apart; it is not kept.
    salt : str
        Of the folder, so that hashes of two folders cannot be compared.

    Raises
    ------
    InvalidInput
        When the key is blank: all such cases would be one patient.
    """
    if not key.strip():
        raise InvalidInput(
            "The patient's key is blank.", "Give whatever tells this patient from the others."
        )
    return hmac.new(salt.encode(), key.strip().encode(), hashlib.sha256).hexdigest()[:32]


def role_of(hashed: str, held_out_share: float = HELD_OUT_SHARE) -> Role:
    """Role of a patient, from `patient_hash` alone.

    Parameters
    ----------
    hashed : str
        Hexadecimal digits.
    held_out_share : float
        From 0 to below 1.
    """
    return "held-out" if int(hashed[:8], 16) < held_out_share * 2**32 else "train"


def patient_in_name(case: str) -> str:
    """Patient that a case's name speaks of: the name without its moment.

    Taken off is one ending ``_frame``, ``_phase``, ``_time``, ``_visit``, ``_scan``, ``_t``,
    ``_ed`` or ``_es`` with its number. Where names are made otherwise, ``patients.json`` says it.

    Examples
    --------
    >>> patient_in_name("patient012_frame01")
    'patient012'
    """
    return _MOMENT.sub("", case) or case
