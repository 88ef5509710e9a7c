"""Where points lie in an image, and what is there."""

import itertools

import pytest
import torch
from torch import Tensor
from tract.phantoms import AFFINE

from mrsim import tract
from mrsim.tract.field import inside, inverse, nearest, sample, trilinear, voxels

SHAPE = (4, 5, 3)


def by_hand(image: Tensor, v: Tensor) -> Tensor:
    """Interpolate (X, Y, Z) at one voxel position with clamped edges."""
    base = v.floor()
    total = torch.zeros(())
    for corner in itertools.product((0, 1), repeat=3):
        weight, place = 1.0, []
        for a, n in enumerate(image.shape):
            f = float(v[a] - base[a]) if 0 <= v[a] <= n - 1 else 0.0
            weight *= f if corner[a] else 1 - f
            place.append(min(max(int(base[a]) + corner[a], 0), n - 1))
        total = total + weight * image[tuple(place)]
    return total


def points(generator: torch.Generator) -> Tensor:
    shape = torch.tensor(SHAPE)[:, None]
    return torch.rand(3, 60, generator=generator) * shape - 0.5


def test_lookup_is_trilinear_with_clamped_edges(generator: torch.Generator) -> None:
    image, v = torch.randn(SHAPE, generator=generator), points(generator)
    corners = trilinear(v, SHAPE, slopes=True)
    made = sample(image.reshape(-1, 1), corners, corners.weights)[0]
    wanted = torch.stack([by_hand(image, x) for x in v.t()])
    assert torch.allclose(made, wanted, atol=1e-12)
    assert torch.allclose(corners.weights.sum(0), torch.ones(60))
    assert corners.slopes is not None
    step = 1e-7
    for a in range(3):
        moved = torch.eye(3)[:, a : a + 1] * step
        ahead = trilinear(v + moved, SHAPE, slopes=False)
        change = sample(image.reshape(-1, 1), ahead, ahead.weights)[0] - made
        slope = sample(image.reshape(-1, 1), corners, corners.slopes[a])[0]
        assert torch.allclose(change / step, slope, atol=1e-5)


def test_outside_and_nearest_are_mrtrix_s() -> None:
    x = torch.tensor([-0.5, -0.49, 0.0, 0.5, 1.49, 2.5, 3.49, 3.5, torch.nan])
    v = torch.stack([x, torch.zeros(9), torch.zeros(9)])
    assert inside(v, SHAPE).tolist() == [False] + [True] * 6 + [False] * 2
    rows = nearest(v, SHAPE) // 15
    assert rows[1:7].tolist() == [0, 0, 1, 1, 3, 3]  # half goes away from zero


def test_the_inverse_takes_positions_back() -> None:
    v = torch.tensor([[0.3], [2.1], [1.7]])
    p = AFFINE[:3, :3] @ v + AFFINE[:3, 3:]
    assert torch.allclose(voxels(inverse(AFFINE)[..., None], p), v, atol=1e-12)


def test_seeds_of_a_grid_fill_the_voxels() -> None:
    mask = torch.zeros(SHAPE)
    mask[1, 2, 0] = mask[3, 4, 2] = 1
    made = tract.grid_seeds(mask, AFFINE, 3)
    v = voxels(inverse(AFFINE)[..., None], made.t()).t()
    assert torch.allclose(v[:27].mean(0), torch.tensor([1.0, 2.0, 0.0]), atol=1e-12)
    third = torch.tensor([1 - 1 / 3, 2 - 1 / 3, -1 / 3])
    assert torch.allclose(v[0], third, atol=1e-12)
    assert torch.allclose(v[1] - v[0], torch.tensor([0, 0, 1 / 3]), atol=1e-12)
    assert len(made) == 54


def test_random_seeds_stay_where_they_belong(generator: torch.Generator) -> None:
    mask = torch.zeros(SHAPE)
    mask[1, 2, 0] = mask[3, 4, 2] = 1
    noise = torch.rand(500, 4, generator=generator)
    v = voxels(inverse(AFFINE)[..., None], tract.random_seeds(mask, AFFINE, noise).t())
    where = mask.reshape(-1)[nearest(v, SHAPE)]
    assert (where == 1).all()
    centre = torch.tensor([1.0, -2.0, 3.0])
    p = tract.sphere_seeds(centre, 2.0, torch.rand(4000, 3, generator=generator))
    r = (p - centre).norm(dim=1)
    assert r.max() <= 2.0
    # uniform in volume: the mean of (r/R)³ is 1/2
    assert ((r / 2) ** 3).mean() == pytest.approx(0.5, abs=0.03)
    assert p.mean(0).sub(centre).abs().max() < 0.1


def test_bad_seed_helpers_teach() -> None:
    with pytest.raises(ValueError, match="empty"):
        tract.grid_seeds(torch.zeros(SHAPE), AFFINE, 1)
    with pytest.raises(ValueError, match="at least 1"):
        tract.grid_seeds(torch.ones(SHAPE), AFFINE, 0)
    with pytest.raises(ValueError, match=r"torch\.rand\(seeds, 4\)"):
        tract.random_seeds(torch.ones(SHAPE), AFFINE, torch.rand(3, 3))
    with pytest.raises(ValueError, match=r"\(X, Y, Z\)"):
        tract.grid_seeds(torch.ones(4), AFFINE, 1)
