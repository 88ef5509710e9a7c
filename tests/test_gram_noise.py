"""Which rows of a Jacobian are rounding noise: the rule, batch by batch."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, vmap

from mrsim._gram import gram, noise

EPS = torch.finfo(torch.float64).eps
SAMPLES = 6


def rows_and_signal(seed: int, *, real: bool) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Six rows, of which two are noise: one of a vector, one of a scalar field."""
    g = torch.Generator().manual_seed(seed)
    made = torch.randn(2, 7, SAMPLES, generator=g)
    s, *rows = made[0] if real else torch.complex(made[0], made[1])
    fields = [
        torch.tensor([1e-3, -40.0 * 3**seed, 2.0]),  # the largest counts for all
        torch.tensor(-3.0 * 4**seed),
        torch.tensor(1e-9),  # has a floor of 1 unit
        torch.tensor(0.0),  # takes 1 for its size
    ]
    edge = 100 * math.sqrt(SAMPLES) * EPS * s.norm()
    scales = [*[40.0 * 3**seed] * 3, 3.0 * 4**seed, 1.0, 1.0]
    shares = [0.5, 2.0, 2.0, 0.5, 2.0, 1e9]
    each = zip(rows, scales, shares, strict=True)
    sized = [r / r.norm() * edge * share / size for r, size, share in each]
    return torch.stack(sized), s, fields


LOST = torch.tensor([True, False, False, True, False, False])
FLOORS = (0.0, 0.0, 1.0, 0.0)


def removed(rows: Tensor, s: Tensor, w: Tensor, *fields: Tensor) -> Tensor:
    information = gram(rows, w)
    return information - noise(FLOORS, information, s, w, fields)


@pytest.mark.parametrize("real", [True, False], ids=["real", "complex"])
@pytest.mark.parametrize("seed", range(4))
def test_noise_goes_with_its_row_and_its_column(seed: int, real: bool) -> None:
    rows, s, fields = rows_and_signal(seed, real=real)
    w = torch.tensor([2.0])
    made = removed(rows, s, w, *fields)
    gone = LOST[:, None] | LOST
    assert (made[gone] == 0).all()
    assert torch.equal(made[~gone], gram(rows, w)[~gone])


@pytest.mark.parametrize("real", [True, False], ids=["real", "complex"])
def test_each_of_a_batch_is_judged_alone(real: bool) -> None:
    """Fields, signals and weights may have axes of their own, at any place."""
    many = [rows_and_signal(seed, real=real) for seed in range(4)]
    rows, s = (
        torch.stack(x).unflatten(0, (2, 2)) for x in list(zip(*many, strict=True))[:2]
    )
    fields = [
        torch.stack(f).unflatten(0, (2, 2))
        for f in zip(*(m[2] for m in many), strict=True)
    ]
    for w in (torch.tensor([2.0]), torch.full((SAMPLES,), 2.0)):
        loop = [
            torch.stack([removed(r, x, w, *f) for r, x, *f in zip(*line, strict=True)])
            for line in zip(rows, s, *fields, strict=True)
        ]
        dims = (0, 0, None) + (0,) * len(fields)
        made = vmap(vmap(removed, dims), dims)(rows, s, w, *fields)
        torch.testing.assert_close(made, torch.stack(loop))
        assert ((made == 0) == (torch.stack(loop) == 0)).all()
        first, last = (rows.movedim(0, -1), s.movedim(0, -1)), fields
        turned = vmap(vmap(removed, dims), (-1, -1, None) + (0,) * len(fields))
        torch.testing.assert_close(turned(*first, w, *last), torch.stack(loop))


def test_samples_that_are_never_taken_do_not_count() -> None:
    """A loud sample of weight 0 makes no noise."""
    rows, s, fields = rows_and_signal(0, real=False)
    loud = torch.cat([s, torch.tensor([1e6 + 0j])])
    longer = torch.cat([rows, torch.ones(6, 1) + 0j], 1)
    w = torch.cat([torch.ones(SAMPLES), torch.zeros(1)])
    made = removed(longer, loud, w, *fields)
    assert ((made.diagonal() == 0) == LOST).all()


@pytest.mark.parametrize("real", [True, False], ids=["real", "complex"])
@pytest.mark.parametrize(
    "order",
    [
        lambda f: jacrev(grad(f)),
        lambda f: grad(lambda x: grad(f)(x).square().sum()),
        lambda f: jacfwd(jacfwd(f)),
        lambda f: vmap(jacrev(grad(f))),
        lambda f: vmap(hessian(f)),
    ],
)
def test_derivatives_by_rows_alone(order: Any, real: bool) -> None:
    """Weights that nobody differentiates by, and two orders of the rows."""
    g = torch.Generator().manual_seed(7)
    x, mix = torch.randn(3, 2, 3, 4, generator=g), torch.randn(3, 3, generator=g)
    w = torch.rand(4, generator=g)

    def by(product: Any) -> Any:
        def f(x: Tensor) -> Tensor:
            rows = x[0] if real else torch.complex(x[0], x[1])
            return (product(rows) * mix).sum().sin()

        return f

    def plainly(rows: Tensor) -> Tensor:
        parts = (rows,) if real else (rows.real, rows.imag)
        return sum((p * w) @ p.mT for p in parts)

    made, wanted = order(by(lambda r: gram(r, w))), order(by(plainly))
    given = x if "vmap" in order.__code__.co_names else x[0]
    torch.testing.assert_close(made(given), wanted(given), rtol=1e-11, atol=1e-11)


def test_slopes_have_the_precision_of_their_rows() -> None:
    g = torch.Generator().manual_seed(3)
    rows = torch.randn(4, 3, 5, generator=g, dtype=torch.float32)
    mix, w = torch.randn(3, 3, generator=g), torch.rand(5, generator=g)

    def f(x: Tensor) -> Tensor:
        return (gram(x, w) * mix).sum()

    made = vmap(grad(f))(rows)
    assert made.dtype == grad(f)(rows[0]).dtype == torch.float32
    wanted = ((mix + mix.mT) @ rows.double() * w).float()
    torch.testing.assert_close(made, wanted, rtol=1e-6, atol=1e-7)
