from __future__ import annotations

import numpy as np
import pytest

from protosam.geometry import anatomical_axis, kji_to_ras
from protosam.masks import largest_component
from protosam.phantom import SHAPE_KJI, SPACING_KJI_MM, Phantom, make_phantom


@pytest.fixture(scope="module")
def a_phantom() -> Phantom:
    return make_phantom()


def test_the_same_seed_gives_the_same_voxels_and_another_seed_others(a_phantom):
    again, other = make_phantom(), make_phantom(seed=21)

    assert again.volume.uid == a_phantom.volume.uid
    assert again.labels.uid == a_phantom.labels.uid
    assert other.volume.uid != a_phantom.volume.uid
    assert other.labels.uid != a_phantom.labels.uid


def test_the_grid_is_anisotropic_and_oblique_and_shared_with_the_labels(a_phantom):
    assert a_phantom.volume.shape_kji == SHAPE_KJI
    np.testing.assert_allclose(a_phantom.volume.spacing_kji_mm, SPACING_KJI_MM)
    np.testing.assert_array_equal(a_phantom.volume.affine, a_phantom.labels.affine)
    assert np.count_nonzero(np.abs(a_phantom.volume.affine[:3, :3]) > 1e-6) > 3
    assert anatomical_axis(a_phantom.volume.affine, 0) == "axial"


def test_every_organ_is_one_body_with_its_own_brightness(a_phantom):
    found = {}
    for label, name in a_phantom.names.items():
        mask = a_phantom.mask(name)
        assert mask.sum() > 1000
        np.testing.assert_array_equal(largest_component(mask), mask)
        found[name] = a_phantom.volume.voxels[mask].mean()
        assert (a_phantom.labels.voxels[mask] == label).all()

    assert set(a_phantom.labels.voxels.ravel().tolist()) == {0, *a_phantom.names}
    assert found["liver"] < found["spleen"] < found["right kidney"]


def test_left_and_right_are_those_of_the_patient(a_phantom):
    liver, spleen = (
        kji_to_ras(a_phantom.volume.affine, np.argwhere(a_phantom.mask(name)).mean(axis=0))
        for name in ("liver", "spleen")
    )

    assert liver[0] > 0 > spleen[0]


def test_the_clicks_lie_where_they_say(a_phantom):
    assert [bool(a_phantom.truth[voxel]) for voxel, _ in a_phantom.clicks] == [
        positive for _, positive in a_phantom.clicks
    ]
    assert {positive for _, positive in a_phantom.clicks} == {True, False}


def test_an_organ_that_is_not_there_is_an_error(a_phantom):
    with pytest.raises(KeyError, match="brain"):
        a_phantom.mask("brain")
