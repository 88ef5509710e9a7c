"""The polynomial form of an FOD and the search for its peaks."""

import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, jacrev, jvp, vmap
from tract.phantoms import lobes

from mrsim import tract
from mrsim.tract import peak, polynomial
from mrsim.tract._direction import _Direction
from mrsim.tract.rules import Rule

DEGREES = [2, 4, 6, 8, 12]


def directions(count: int, generator: torch.Generator) -> Tensor:
    u = torch.randn(3, count, generator=generator)
    return u / u.norm(dim=0)


@pytest.mark.parametrize("L", DEGREES)
def test_the_polynomial_is_the_series(L: int, generator: torch.Generator) -> None:
    n = (L + 1) * (L + 2) // 2
    c, u = torch.randn(n, generator=generator), directions(40, generator)
    wanted = tract.harmonics(u.t(), L) @ c
    made = vmap(tract.amplitude, in_dims=(None, 1))(c, u)
    assert torch.allclose(made, wanted, atol=1e-12)
    T = tract.polynomial.polynomial(c)[:, None].expand(n, 40)
    assert torch.allclose(polynomial.amplitudes(T, u).diagonal(), wanted, atol=1e-12)


@pytest.mark.parametrize("L", DEGREES)
def test_slopes_are_those_of_autograd(L: int, generator: torch.Generator) -> None:
    n = (L + 1) * (L + 2) // 2
    c, u = torch.randn(n, generator=generator), directions(300, generator)
    T = polynomial.polynomial(c)[:, None].expand(n, 300)
    H = polynomial.curvature(T, u)
    wanted = vmap(hessian(tract.amplitude, 1), in_dims=(None, 1), out_dims=2)(c, u)
    assert torch.allclose(H, wanted, rtol=1e-9, atol=1e-9)
    g = vmap(grad(tract.amplitude, 1), in_dims=(None, 1), out_dims=1)(c, u)
    assert torch.allclose(polynomial.gradient(T, u), g, rtol=1e-9, atol=1e-10)
    y = torch.randn(3, 300, generator=generator)
    back = polynomial.gradient_transpose(u, y, L)
    assert torch.allclose((back * T).sum(0), (y * g).sum(0), rtol=1e-9, atol=1e-9)


def test_one_small_product_is_many(generator: torch.Generator) -> None:
    T, u = torch.randn(45, 1000, generator=generator), directions(1000, generator)
    made = polynomial.curvature(T, u)
    parts = [
        polynomial.curvature(t, v)
        for t, v in zip(T.split(9, 1), u.split(9, 1), strict=True)
    ]
    assert torch.allclose(made, torch.cat(parts, 2), rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("count", [0, 1, 3, 10, 21, 46])
def test_odd_and_wrong_lengths_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match="lmax even"):
        tract.amplitude(torch.ones(count), torch.tensor([0.0, 0.0, 1.0]))


def test_the_search_finds_the_lobe(generator: torch.Generator) -> None:
    axis = directions(200, generator).t()
    T = polynomial.polynomial(lobes(axis[:, None], torch.ones(200, 1), 8)).t()
    near = axis.t() + 0.2 * directions(200, generator)
    made, size = peak.search(T, near / near.norm(dim=0), polish=2)
    assert torch.allclose((made * axis.t()).sum(0).abs(), torch.ones(200), atol=1e-14)
    assert torch.allclose(size, polynomial.amplitudes(T, made).diagonal(), rtol=1e-6)
    plain, _ = peak.search(T, near / near.norm(dim=0), polish=0)
    assert (plain - made).norm(dim=0).max() < 1e-4


def test_a_search_that_does_not_end_is_nan() -> None:
    T = polynomial.polynomial(torch.randn(45, 45))[:, :1] * torch.nan
    made, size = peak.search(T, torch.tensor([[0.0], [0.6], [0.8]]), polish=0)
    assert made.isnan().all()
    assert size.isnan().all()


def test_along_the_poles_there_is_no_singularity() -> None:
    z = torch.tensor([[0.0, 0.0, 1.0]])
    T = polynomial.polynomial(lobes(z[:, None], torch.ones(1, 1), 8)).t()
    start = torch.tensor([[1e-9, 0.05], [0.0, 0.02], [1.0, 0.9985]])
    start = start / start.norm(dim=0)
    made, _ = peak.search(T.expand(45, 2).contiguous(), start, polish=2)
    assert torch.allclose(made, z.t().expand(3, 2), atol=1e-12)


def test_derivatives_are_those_of_the_implicit_function(
    generator: torch.Generator,
) -> None:
    axis = directions(5, generator).t()
    c = lobes(axis[:, None], torch.ones(5, 1), 6)
    c = c + 0.02 * torch.randn(c.shape, generator=generator)
    rule = Rule("fod", (1, 1, 1), 28, 0.1, 0.5, 4)
    none = torch.zeros(1, 1, 5)

    def found(x: Tensor) -> Tensor:
        T = polynomial.polynomial(x).t().contiguous()
        return _Direction.apply(rule, True, T, none, axis.t().contiguous())  # pyright: ignore[reportReturnType]

    way = torch.randn(c.shape, generator=generator)
    made = jvp(found, (c,), (way,))[1]
    step = 1e-4
    near, far = (found(c + s * way) - found(c - s * way) for s in (step, 2 * step))
    assert torch.allclose(made, (8 * near - far) / (12 * step), rtol=1e-8, atol=1e-9)
    rows = jacrev(found)(c)
    assert torch.allclose(torch.einsum("abij,ij->ab", rows, way), made, rtol=1e-10)
    # and again: the second derivative of the same rule
    slope = jvp(lambda x: jvp(found, (x,), (way,))[1], (c,), (way,))[1]
    ahead, behind = (jvp(found, (c + s * way,), (way,))[1] for s in (1e-5, -1e-5))
    assert torch.allclose(slope, (ahead - behind) / 2e-5, rtol=1e-5, atol=1e-7)
