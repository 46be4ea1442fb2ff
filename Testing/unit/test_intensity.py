"""Windows: how one is chosen, what it maps to, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from protosam.errors import InvalidInput
from protosam.intensity import CT_SOFT_TISSUE, MAX_SAMPLES, Window, apply_window, auto_window

WINDOWS = st.builds(
    lambda low, width: Window(low, low + width),
    st.floats(-2000, 2000),
    st.floats(1, 4000),
)
INTENSITIES = hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-1e4, 1e4, width=32))


def a_ct(padding: float = -1000.0) -> np.ndarray:
    """Air round a body of soft tissue with some bone, in HU."""
    rng = np.random.default_rng(1)
    ct = np.full((20, 40, 40), padding)
    ct[:, 8:32, 8:32] = rng.normal(40, 25, size=(20, 24, 24))
    ct[:, 18:22, 18:22] = 700
    return ct


@given(INTENSITIES, WINDOWS)
def test_a_brighter_voxel_never_becomes_darker(voxels: np.ndarray, window: Window) -> None:
    assert (np.diff(apply_window(np.sort(voxels), window)) >= 0).all()


@given(INTENSITIES, WINDOWS)
def test_windowed_intensities_lie_in_zero_to_one(voxels: np.ndarray, window: Window) -> None:
    found = apply_window(voxels, window)
    assert found.dtype == np.float32
    assert found.shape == voxels.shape
    assert found.min() >= 0
    assert found.max() <= 1


@given(WINDOWS)
def test_the_ends_of_a_window_become_black_and_white(window: Window) -> None:
    middle = (window.low + window.high) / 2
    values = [window.low - 1, window.low, middle, window.high, window.high + 1]
    np.testing.assert_allclose(apply_window(np.array(values), window), [0, 0, 0.5, 1, 1], atol=0.01)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.uint16, np.int64, np.float64])
def test_every_type_of_voxel_can_be_windowed(dtype: type) -> None:
    voxels = np.array([0, 1], dtype=dtype)
    np.testing.assert_allclose(apply_window(voxels, Window(0, 2)), [0, 0.5])
    assert voxels.tolist() == [0, 1]


def test_ct_is_recognised_and_gets_a_soft_tissue_window() -> None:
    assert auto_window(a_ct()) == Window(*CT_SOFT_TISSUE)
    assert auto_window(a_ct(padding=-3024)) == Window(*CT_SOFT_TISSUE)


def test_values_below_any_scanner_padding_are_not_ct() -> None:
    assert auto_window(a_ct(padding=-5000)) != Window(*CT_SOFT_TISSUE)


def test_an_image_with_air_but_no_tissue_near_zero_is_not_ct() -> None:
    shifted = a_ct()
    shifted[shifted > -500] += 400
    assert auto_window(shifted) != Window(*CT_SOFT_TISSUE)


@given(st.integers(0, 2**31), st.floats(0.5, 500), st.floats(0, 1000))
def test_the_window_follows_a_change_of_units(seed: int, gain: float, offset: float) -> None:
    values = np.random.default_rng(seed).gamma(2.0, size=(4, 20, 20))
    before, after = auto_window(values), auto_window(gain * values + offset)
    np.testing.assert_allclose(
        [after.low, after.high],
        [gain * before.low + offset, gain * before.high + offset],
        rtol=1e-6,
        atol=1e-6,
    )


def test_a_plateau_of_background_does_not_count() -> None:
    image = np.zeros((10, 30, 30))
    image[:, 10:20, 10:20] = np.random.default_rng(2).uniform(100, 200, size=(10, 10, 10))
    window = auto_window(image)
    assert 99 < window.low < 105
    assert 195 < window.high <= 200


def test_without_a_plateau_all_voxels_count() -> None:
    image = np.random.default_rng(3).uniform(100, 200, size=(10, 30, 30))
    image[0, 0, 0] = 0
    window = auto_window(image)
    assert window.low == pytest.approx(np.percentile(image, 0.5), abs=1e-6)
    assert window.high == pytest.approx(np.percentile(image, 99.5), abs=1e-6)


def test_outliers_do_not_stretch_the_window() -> None:
    image = np.random.default_rng(4).uniform(0, 1, size=(10, 30, 30))
    image[3, 3, 3] = 1e6
    assert auto_window(image).high < 2


def test_a_mask_of_two_values_can_be_windowed() -> None:
    image = np.zeros((1, 40, 40), dtype=np.uint8)
    image[0, 10:30, 10:30] = 255
    assert auto_window(image) == Window(0, 255)


def test_a_single_voxel_between_the_samples_is_still_seen() -> None:
    image = np.zeros((1, 1, 2 * MAX_SAMPLES))
    image[0, 0, 7] = 5
    assert auto_window(image) == Window(0, 5)


def test_a_constant_volume_is_refused_with_its_value() -> None:
    with pytest.raises(InvalidInput, match="Every voxel of the volume is 7"):
        auto_window(np.full((3, 4, 5), 7, dtype=np.int16))


@pytest.mark.parametrize("ends", [(1.0, 1.0), (2.0, 1.0)])
def test_a_window_without_width_is_refused(ends: tuple[float, float]) -> None:
    with pytest.raises(InvalidInput, match="above its low end"):
        Window(*ends)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_window_of_infinite_numbers_is_refused(bad: float) -> None:
    with pytest.raises(InvalidInput, match="two finite numbers"):
        Window(bad, 1.0)
    with pytest.raises(InvalidInput, match="two finite numbers"):
        Window(0.0, bad)
