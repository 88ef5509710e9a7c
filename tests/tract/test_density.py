import pytest
import torch
from torch import Tensor
from torch.func import grad, jacfwd, jacrev, vmap

from mrsim import tract


def affine() -> Tensor:
    made = torch.diag(torch.tensor([2.0, 1.5, 2.5, 1.0]))
    made[:3, 3] = torch.tensor([-5.0, 3.0, 1.0])
    made[0, 1], made[1, 0] = 0.4, -0.3
    return made


def tracks(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return tracks inside a grid of 9 × 8 × 7, padded with NaN."""
    start = torch.tensor([3.5, 3.2, 2.8])
    step = 0.3 * torch.randn(5, 9, 3, generator=generator)
    voxels = start + step.cumsum(1).clamp(-2.4, 2.4)
    counts = torch.tensor([9, 7, 9, 0, 2])
    points = voxels @ affine()[:3, :3].mT + affine()[:3, 3]
    kept = torch.arange(9) < counts[:, None]
    return torch.where(kept[..., None], points, torch.nan), counts


def test_density_adds_up_to_the_length(generator: torch.Generator) -> None:
    points, counts = tracks(generator)
    made = tract.density(points, counts, affine(), (9, 8, 7))
    total = vmap(tract.length)(points, counts).sum()
    assert torch.allclose(made.sum(), total)
    assert made.min() >= 0
    # its centre of mass is that of the segments' middles
    at = torch.stack(
        torch.meshgrid(*map(torch.arange, (9.0, 8.0, 7.0)), indexing="ij"), -1
    )
    places = at @ affine()[:3, :3].mT + affine()[:3, 3]
    centre = (made[..., None] * places).sum((0, 1, 2)) / total
    clean = points.nan_to_num(0.0)
    size = clean.diff(dim=1).norm(dim=-1) * (torch.arange(8) < counts[:, None] - 1)
    middle = (clean[:, 1:] + clean[:, :-1]) / 2
    wanted = (size[..., None] * middle).sum((0, 1)) / total
    assert torch.allclose(centre, wanted)


def test_density_outside_is_left_out(generator: torch.Generator) -> None:
    points, counts = tracks(generator)
    far = tract.density(points + 500, counts, affine(), (9, 8, 7))
    assert far.sum() == 0
    part = tract.density(points, counts, affine(), (5, 8, 7))
    whole = tract.density(points, counts, affine(), (9, 8, 7))
    assert torch.allclose(part, whole[:5])


def test_density_has_derivatives(generator: torch.Generator) -> None:
    points, counts = tracks(generator)
    weights = torch.rand(9, 8, 7, generator=generator)

    def f(x: Tensor, a: Tensor) -> Tensor:
        return (tract.density(x, counts, a, (9, 8, 7)) * weights).sum()

    way = torch.randn(points.shape, generator=generator)
    h = 1e-5
    at = [f(points + t * h * way, affine()) for t in (-2, -1, 1, 2)]
    wanted = (8 * (at[2] - at[1]) - at[3] + at[0]) / (12 * h)
    slope = grad(f)(points, affine())
    assert slope.isfinite().all()
    assert torch.allclose((slope * way).sum(), wanted, rtol=1e-6)
    assert torch.allclose(jacfwd(f)(points, affine()), slope, atol=1e-11)
    turned = jacrev(f, argnums=1)(points, affine())
    assert torch.allclose(turned, jacfwd(f, argnums=1)(points, affine()), atol=1e-9)
    assert turned[:3].abs().min() > 0


def parcels() -> Tensor:
    labels = torch.zeros(9, 8, 7, 3)
    labels[:3, ..., 0] = 1
    labels[3:6, ..., 1] = 1
    labels[6:, ..., 2] = 1
    return labels


def test_connectome_counts_ends(generator: torch.Generator) -> None:
    points, counts = tracks(generator)
    made = tract.connectome(points, counts, parcels(), affine())
    assert torch.allclose(made, made.mT)
    assert torch.allclose(made.sum(), torch.tensor(4.0))  # one track is empty
    hard = torch.zeros(3, 3)
    at = torch.tensor([[0.0, 3.0, 3.0], [8.0, 3.0, 3.0]])
    line = at @ affine()[:3, :3].mT + affine()[:3, 3]
    made = tract.connectome(line[None], torch.tensor([2]), parcels(), affine())
    none = tract.connectome(points[:0], counts[:0], parcels(), affine())
    assert torch.equal(none, torch.zeros_like(made))
    hard[0, 2] = hard[2, 0] = 0.5
    assert torch.allclose(made, hard)
    weighted = tract.connectome(
        line.expand(2, 2, 3),
        torch.tensor([2, 2]),
        parcels(),
        affine(),
        torch.tensor([3.0, 1]),
    )
    assert torch.allclose(weighted, 4 * hard)


def test_connectome_has_derivatives(generator: torch.Generator) -> None:
    points, counts = tracks(generator)

    def f(x: Tensor) -> Tensor:
        return tract.connectome(x, counts, parcels(), affine())

    way = torch.randn(points.shape, generator=generator)
    h = 1e-5
    wanted = (f(points + h * way) - f(points - h * way)) / (2 * h)
    slope = jacrev(f)(points)
    assert slope.isfinite().all()
    made = torch.einsum("abkvc,kvc->ab", slope, way)
    assert torch.allclose(made, wanted, atol=1e-8)
    assert made.abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_is_kept(dtype: torch.dtype, generator: torch.Generator) -> None:
    points, counts = tracks(generator)
    made = tract.density(points.to(dtype), counts, affine().to(dtype), (9, 8, 7))
    assert made.dtype == dtype
    exact = tract.density(points, counts, affine(), (9, 8, 7))
    assert torch.allclose(made.double(), exact, atol=1e-4)
