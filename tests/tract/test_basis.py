import warnings

import pytest
import torch
from torch.func import hessian, jacfwd, vmap

from mrsim import tract
from mrsim.tract.basis import orders
from mrsim.tract.sphere import gauss

BASES = ("tournier07", "tournier07_legacy", "descoteaux07", "descoteaux07_legacy")


def directions(count: int, generator: torch.Generator) -> torch.Tensor:
    x = torch.randn(count, 3, generator=generator)
    return x / x.norm(dim=-1, keepdim=True)


def test_harmonics_are_orthonormal() -> None:
    z, w = gauss(20)
    azimuth = torch.arange(40) * (2 * torch.pi / 40)
    radius = (1 - z**2).sqrt()[:, None]
    points = torch.stack(
        [radius * azimuth.cos(), radius * azimuth.sin(), z[:, None].expand(-1, 40)], -1
    )
    y = tract.harmonics(points, 12).flatten(0, 1)
    weights = (w[:, None] * (2 * torch.pi / 40)).expand(-1, 40).flatten()
    gram = y.mT @ (weights[:, None] * y)
    assert torch.allclose(gram, torch.eye(91), atol=1e-13)


def test_low_degrees_in_closed_form(generator: torch.Generator) -> None:
    u = directions(50, generator)
    x, y, z = u.unbind(-1)
    a = (15 / torch.pi) ** 0.5 / 2
    wanted = torch.stack(
        [
            torch.full_like(x, (1 / (4 * torch.pi)) ** 0.5),
            a * x * y,
            -a * y * z,
            (5 / torch.pi) ** 0.5 / 4 * (3 * z * z - 1),
            -a * x * z,
            a / 2 * (x * x - y * y),
        ],
        -1,
    )
    made = tract.harmonics(u, 2)
    assert torch.allclose(made, wanted, atol=1e-14)


def test_addition_theorem(generator: torch.Generator) -> None:
    u, v = directions(20, generator), directions(20, generator)
    both = tract.harmonics(u, 10) * tract.harmonics(v, 10)
    z = (u * v).sum(-1)
    degrees = torch.tensor([n // 2 for n, _ in orders(10)])
    sums = torch.zeros(20, 6).index_add(1, degrees, both)
    scale = torch.tensor(
        [((2 * n + 1) / (4 * torch.pi)) ** 0.5 for n in range(0, 11, 2)]
    )
    assert torch.allclose(sums, tract.zonal(z, 10) * scale, atol=1e-13)


def test_poles_have_all_derivatives() -> None:
    pole = torch.tensor([0.0, 0.0, 1.0])
    assert jacfwd(lambda u: tract.harmonics(u, 8))(pole).isfinite().all()
    second = hessian(lambda u: tract.harmonics(u, 8)[3])(pole)
    assert torch.allclose(second[2, 2], torch.tensor(6 * (5 / torch.pi) ** 0.5 / 4))


@pytest.mark.parametrize("basis", BASES)
def test_conversion_keeps_the_function(
    basis: tract.Basis, generator: torch.Generator
) -> None:
    u, c = directions(30, generator), torch.randn(4, 45, generator=generator)
    wanted = c @ tract.harmonics(u, 8).mT
    other = tract.convert(c, "tournier07", basis)
    made = other @ tract.harmonics(u, 8, basis).mT
    assert torch.allclose(made, wanted, atol=1e-13)
    assert torch.allclose(tract.convert(other, basis, "tournier07"), c, atol=1e-14)
    assert basis == "tournier07" or not torch.allclose(other, c)


@pytest.mark.parametrize("basis", BASES)
def test_bases_are_those_of_dipy(
    basis: tract.Basis, generator: torch.Generator
) -> None:
    shm = pytest.importorskip("dipy.reconst.shm", reason="needs dipy")
    u = directions(40, generator)
    theta, phi = u[:, 2].arccos().numpy(), torch.atan2(u[:, 1], u[:, 0]).numpy()
    name, legacy = basis.removesuffix("_legacy"), basis.endswith("_legacy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        f = getattr(shm, f"real_sh_{name.removesuffix('07')}")
        wanted = torch.from_numpy(f(8, theta, phi, legacy=legacy)[0])
    assert torch.allclose(tract.harmonics(u, 8, basis), wanted, atol=1e-13)


@pytest.mark.parametrize(("count", "why"), [(44, "45"), (16, "odd degrees"), (0, "1")])
def test_wrong_counts_are_refused(count: int, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        tract.degree(count)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="even number"):
        tract.harmonics(torch.ones(3), 3)
    with pytest.raises(ValueError, match=r"\(\.\.\., 3\)"):
        tract.harmonics(torch.ones(4), 2)
    with pytest.raises(ValueError, match="tournier07_legacy"):
        tract.harmonics(torch.ones(3), 2, "tournier")  # pyright: ignore
    assert [tract.degree(tract.terms(n)) for n in range(0, 22, 2)] == [*range(0, 22, 2)]


def test_single_precision_and_vmap(generator: torch.Generator) -> None:
    u = directions(9, generator)
    exact = tract.harmonics(u, 8)
    small = vmap(lambda x: tract.harmonics(x, 8))(u.float())
    assert small.dtype == torch.float32
    assert torch.allclose(small.double(), exact, atol=2e-6)


def test_whole_numbers_are_no_directions() -> None:
    for f in (tract.harmonics, tract.zonal):  # they would round the basis to 0
        with pytest.raises(TypeError, match="floating-point"):
            f(torch.tensor([0, 0, 1]), 2)
    one, up = torch.tensor([1, 0, 0, 1, 0, 0]), torch.tensor([0.0, 0.0, 1.0])
    with pytest.raises(TypeError, match="floating-point"):
        tract.amplitude(one, up)
    with pytest.raises(TypeError, match="floating-point"):
        tract.tensor_response(torch.tensor(1000), up[2] * 1e-3, up[2] * 1e-4)
