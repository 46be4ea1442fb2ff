"""Who teaches and who judges, decided by patients and never by chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protosam.cases.roles import Role, patient_hash, role_of
from protosam.geometry import Volume
from protosam.learn.division import OTHER_PATIENTS, SAME_PATIENTS, Division, divide
from protosam.learn.finished_cases import FinishedCase

BLOCK = np.zeros((8, 6, 6), dtype=np.uint8)
BLOCK[1:7, 1:5, 1:5] = 1


def a_case(name: str, labels: np.ndarray = BLOCK) -> FinishedCase:
    affine = np.diag([1.0, 1.0, 4.0, 1.0])
    return FinishedCase(name, Volume(labels.astype(np.int16), affine), Volume(labels, affine), (1,))


def parted(patients: Sequence[str], roles: dict[str, Role] | None = None) -> Division:
    """Divide cases named ``<patient>_<number>``."""
    names = [f"{patient}_{n}" for n, patient in enumerate(patients)]
    hashes = {name: patient_hash(name.partition("_")[0]) for name in names}
    given_roles = {name: role_of(hashes[name]) for name in names} | (roles or {})
    return divide([a_case(name) for name in names], given_roles, hashes)


def patients_of(cases: Sequence[FinishedCase]) -> set[str]:
    return {case.name.partition("_")[0] for case in cases}


@given(st.lists(st.integers(0, 40), min_size=3, max_size=12))
def test_nobody_teaches_and_judges_and_there_are_judges_enough(numbers: list[int]) -> None:
    patients = [f"p{n}" for n in numbers]
    division = parted(patients)
    teaching = patients_of(division.taught)
    judging = patients_of([one.case for one in division.judges])
    count = len(set(patients))
    all_held_out = all(role_of(patient_hash(p)) == "held-out" for p in patients)
    if count < 3 or all_held_out:
        return
    assert division.validation == OTHER_PATIENTS
    assert teaching and not teaching & judging
    assert teaching | judging == set(patients)
    assert len(judging) >= (2 if count >= 5 else 1)


@given(st.lists(st.integers(0, 40), min_size=5, max_size=9, unique=True), st.integers(41, 60))
def test_one_more_patient_never_makes_one_that_is_held_out_teach(
    numbers: list[int], new: int
) -> None:
    held = {f"p{n}" for n in numbers if role_of(patient_hash(f"p{n}")) == "held-out"}
    for patients in (numbers, [*numbers, new]):
        division = parted([f"p{n}" for n in patients])
        if division.validation == OTHER_PATIENTS:
            assert not held & patients_of(division.taught)


def test_two_cases_of_one_patient_stay_together() -> None:
    division = parted(["a", "a", "b", "b", "c", "c", "d", "d", "e", "e"])
    judging = patients_of([one.case for one in division.judges])
    assert len(judging) >= 2
    assert len(division.judges) == 2 * len(judging)


def test_a_case_without_an_object_is_not_called_to_judge() -> None:
    names = ["a", "b", "c"]
    cases = [a_case("a", np.zeros_like(BLOCK)), a_case("b"), a_case("c")]
    roles: dict[str, Role] = dict.fromkeys(names, "train")
    division = divide(cases, roles, {"a": "0", "b": "1", "c": "2"})
    # Two patients with an object are too few to give one away, so each gives a block.
    assert division.validation == SAME_PATIENTS
    assert {one.case.name for one in division.judges} == {"b", "c"}


@pytest.mark.parametrize("count", [1, 2])
def test_few_patients_give_a_block_of_their_slices(count: int) -> None:
    names = [f"{n}" for n in range(count)]
    roles: dict[str, Role] = dict.fromkeys(names, "train")
    division = divide([a_case(name) for name in names], roles)
    assert division.validation == SAME_PATIENTS and len(division.judges) == count
