"""Which cases teach and which are held out: decided by the patient, once and for all.

Owns the rule. A patient's key is hashed with a salt; the hash says which role all cases of that
patient have, so that two images of one patient are never on both sides. Of a few patients chance
could hold back most: then further ones teach. Folders that keep roles decide once, when a patient's
first case comes. Knows nothing of files and images. Speaks no coordinates.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from typing import Literal, get_args

from protosam.errors import InvalidInput

Role = Literal["train", "held-out"]
"""What a case is for."""

ROLES: tuple[Role, ...] = get_args(Role)

HELD_OUT_SHARE = 0.25
"""Share of the patients that are held out, in the long run."""

MOST_HELD_OUT = 0.4
"""Largest share of the patients that are held out, however many the hashes say; one may always be:
who saves five cases is not to see two of them teach."""

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


def most_held_out(patients: int) -> int:
    """Most patients that are held out of so many."""
    return max(1, int(MOST_HELD_OUT * patients))


def role_beside(
    hashed: str, others: Iterable[Role], held_out_share: float = HELD_OUT_SHARE
) -> Role:
    """Role of a patient that joins others, whose roles stay.

    Parameters
    ----------
    hashed : str
        Hexadecimal digits, of `patient_hash`.
    others : iterable of Role
        Of each patient that is there.
    held_out_share : float
        From 0 to below 1.
    """
    there = list(others)
    if there.count("held-out") >= most_held_out(len(there) + 1):
        return "train"
    return role_of(hashed, held_out_share)


def roles_of(hashes: Iterable[str]) -> dict[str, Role]:
    """Roles of all patients of a folder that keeps none, by hash: the smallest are held out."""
    patients = sorted(set(hashes))
    most = most_held_out(len(patients))
    return {one: role_of(one) if n < most else "train" for n, one in enumerate(patients)}


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
