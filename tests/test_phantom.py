import importlib.util

import pytest
import torch

from mrsim import phantom


def fractions(*values):
    return (torch.tensor([v], dtype=torch.float64) for v in values)


@pytest.mark.parametrize(
    ("share", "tissue"),
    [((1, 0, 0), phantom.GREY), ((0, 1, 0), phantom.WHITE), ((0, 0, 1), phantom.CSF)],
)
def test_pure_tissue_has_the_literature_values(share, tissue):
    made = phantom.brain(*fractions(*share))
    for name, value in tissue.items():
        assert float(getattr(made, name)) == pytest.approx(value, rel=1e-12)


def test_mixture_weights_rates_by_water():
    made = phantom.brain(*fractions(0.5, 0.0, 0.5))
    grey, csf = phantom.GREY, phantom.CSF
    water = 0.5 * grey["M0"] + 0.5 * csf["M0"]
    rate = (0.5 * grey["M0"] / grey["T2"] + 0.5 * csf["M0"] / csf["T2"]) / water
    assert float(made.M0) == pytest.approx(water)
    assert float(made.T2) == pytest.approx(1 / rate)
    assert grey["T2"] < float(made.T2) < csf["T2"]
    assert grey["T1"] < float(made.T1) < csf["T1"]


def test_half_full_voxel_keeps_its_times_and_halves_its_water():
    full, half = (
        phantom.brain(*fractions(1, 0, 0)),
        phantom.brain(*fractions(0.5, 0, 0)),
    )
    assert float(half.T2) == pytest.approx(float(full.T2))
    assert float(half.M0) == pytest.approx(float(full.M0) / 2)


def test_empty_voxel_is_zero_and_its_gradient_is_finite():
    share = torch.zeros(3, requires_grad=True)
    made = phantom.brain(share, share, share)
    for made_map in (made.T1, made.T2, made.M0):
        assert made_map.eq(0).all()
    (made.T1 + made.T2 + made.M0).sum().backward()
    assert share.grad.isfinite().all()


def test_dtype_and_shape_follow_the_fractions():
    share = torch.full((2, 3), 1 / 3, dtype=torch.float32)
    made = phantom.brain(share, share, share)
    assert made.T2.dtype == torch.float32
    assert made.T2.shape == (2, 3)


def test_the_mni152_head_is_a_head():
    if importlib.util.find_spec("nilearn") is None:
        pytest.skip("nilearn is not installed")
    head = phantom.mni152()
    maps = head.tissue
    for values in (maps.T1, maps.T2, maps.M0):
        assert values.shape == head.mask.shape == head.like.data.shape
        assert (values[head.mask] > 0).all()
        assert (values[head.like.data <= 0] == 0).all()  # around the brain
    assert (maps.T2 <= maps.T1).all()
    for name in ("T1", "T2", "M0"):
        low, high = sorted((phantom.WHITE[name], phantom.CSF[name]))
        values = getattr(maps, name)[head.mask].double()
        assert 0.99 * low < values.min() < values.max() < 1.01 * high
    litres = float(head.mask.sum()) * 1e-6  # voxels of 1 mm
    assert 1.5 < litres < 2
    x, y, z = (i.double().mean() for i in head.mask.nonzero(as_tuple=True))
    centre = torch.from_numpy(head.like.affine) @ torch.stack([x, y, z, torch.ones(())])
    assert centre[0].abs() < 2  # the brain is as wide on the left as on the right
