"""Inverses and determinants of Fisher matrices, also of singular ones."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, vmap

import mrsim
from mrsim._covariance import Bound, invert


def agree(made: Tensor, wanted: Tensor, rtol: float) -> None:
    assert (made - wanted).abs().max() < rtol * wanted.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_covariance_finds_every_null_space(
    dtype: torch.dtype, generator: torch.Generator
) -> None:
    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    for size, groups in itertools.product((2, 5, 8), ([], [2], [3], [2, 3], [2, 2])):
        if sum(groups) > size:
            continue
        jacobian = random(30, size)
        order = torch.randperm(size, generator=generator).tolist()
        parts = [[order.pop() for _ in range(n)] for n in groups]
        for first, *rest in parts:
            mix = random(len(rest))
            jacobian[:, first] = jacobian[:, rest] @ (mix.sign() * (mix.abs() + 0.01))
        units = 10 ** (8 * torch.rand(size, generator=generator) - 4)
        rounded = (jacobian * units).to(dtype).double()
        lost = torch.zeros(size, dtype=torch.bool)
        lost[list(itertools.chain(*parts))] = True

        eps = torch.finfo(dtype).eps
        made = invert(rounded.mT @ rounded, eps).matrix
        assert torch.equal(made.diagonal().isinf(), lost)
        dropped = {p[0] for p in parts}
        kept = torch.tensor([k for k in range(size) if k not in dropped])
        reduced = torch.linalg.pinv(rounded[:, kept] / units[kept])
        wanted = (reduced @ reduced.mT) / units[kept] / units[kept, None]
        there = ~lost[kept]
        same = made[kept][:, kept][there][:, there]
        scale = wanted[there][:, there].diagonal().sqrt()
        error = (same - wanted[there][:, there]) / scale / scale[:, None]
        assert error.abs().sum() < (1e-10 if dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_covariance_sees_a_small_part_in_a_null_space(dtype: torch.dtype) -> None:
    small = 1e3 * torch.finfo(dtype).eps
    x, y = torch.tensor([[1.0, 2.0, 2.0], [2.0, 1.0, -2.0]]) / 3
    jacobian = torch.stack([x, y, x + small * y], 1)
    eps = torch.finfo(dtype).eps
    made = invert(jacobian.mT @ jacobian, eps)
    assert made.coupled.all()


def test_logdet_is_that_of_the_matrix(generator: torch.Generator) -> None:
    a, b = torch.randn(2, 6, 3, generator=generator)

    def information(x: Tensor) -> Tensor:
        j = torch.diag(torch.tensor([1.0, 1e5, 1e-5])) @ (a + x * b).sin().mT
        return j @ j.mT

    def made(x: Tensor) -> Tensor:
        return mrsim.logdet(information(x))

    def plain(x: Tensor) -> Tensor:
        return torch.logdet(information(x))

    x = torch.tensor([0.3, 0.7])
    for order in (lambda f: f, jacfwd, jacrev, hessian):
        wanted = torch.stack([order(plain)(v) for v in x])
        agree(vmap(order(made))(x), wanted, 1e-9)
    third = torch.stack([jacrev(jacrev(jacrev(plain)))(v) for v in x])
    agree(vmap(jacfwd(hessian(made)))(x), third, 1e-9)


def test_logdet_of_singular_and_nan_matrices() -> None:
    ones = torch.ones(2, 2)
    assert mrsim.logdet(ones) == -math.inf
    assert grad(lambda x: mrsim.logdet(x * ones))(torch.tensor(2.0)) == 0
    batch = torch.stack([torch.eye(2), ones, ones * math.nan])
    made = vmap(mrsim.logdet)(batch)
    assert made[0] == 0
    assert made[1] == -math.inf
    assert made[2].isnan()


# ---------------------------------------------------------------- batches


def batch_of_kinds() -> Tensor:
    """Fisher matrices (2, 3, 4, 4): regular, ill-conditioned and without an inverse."""
    x, y = torch.tensor([[1.0, 2.0, 2.0, 0.0], [2.0, 1.0, -2.0, 0.0]]) / 3
    z, u = torch.tensor([0.0, 0.0, 0.0, 1.0]), torch.tensor([2.0, -2.0, 1.0, 0.0]) / 3
    small = 1e3 * torch.finfo(torch.float64).eps
    columns = (
        (x, y, z, u),
        (x, y, z, x + 1e-3 * u),
        (x, y, x + small * y, z),
        (x, 0 * y, z, u),
        (x, y, z, math.nan * u),
        (x + y, y, 3 * x, z + 0.2 * x),
    )
    made = torch.stack([torch.stack(c, 1) for c in columns])
    return (made.mT @ made).reshape(2, 3, 4, 4)


@pytest.mark.parametrize("criterion", [mrsim.covariance, mrsim.logdet])
def test_a_batch_along_any_axes_is_a_loop(criterion: Any) -> None:
    batch = batch_of_kinds()
    wanted = torch.stack([torch.stack([criterion(x) for x in row]) for row in batch])
    made = vmap(vmap(criterion))(batch)
    torch.testing.assert_close(made, wanted, equal_nan=True)
    made = vmap(vmap(criterion, -1), -1)(batch.permute(2, 3, 1, 0))
    torch.testing.assert_close(made, wanted, equal_nan=True)
    assert not wanted[0].isnan().any()
    assert wanted[1, 1].isnan().all()


def test_a_batch_is_told_apart_as_its_matrices_are() -> None:
    batch = batch_of_kinds().flatten(0, 1)
    eps = torch.finfo(torch.float64).eps
    made = vmap(lambda x: tuple(invert(x, eps)))(batch)
    lost = {3: ("absent", [1]), 2: ("coupled", [0, 1, 2]), 5: ("coupled", [0, 1, 2])}
    for k in (0, 1, 2, 3, 5):
        kind, where = lost.get(k, ("absent", []))
        for found in (invert(batch[k], eps), Bound(*(x[k] for x in made))):
            told = {"absent": found.absent, "coupled": found.coupled}
            assert told.pop(kind).nonzero().flatten().tolist() == where
            assert not told.popitem()[1].any()


# ---------------------------------------------------------------- what is lost


def test_beside_what_is_lost_stands_nothing() -> None:
    """Not even where the inverse of the regularised matrix has something."""
    information = batch_of_kinds()[1, 2]
    made = mrsim.covariance(information)
    assert made[:3, 3].tolist() == made[3, :3].tolist() == [0.0, 0.0, 0.0]
    assert (
        (made[:3, :3] == torch.diag(torch.full((3,), math.inf)))
        .logical_or(made[:3, :3] == 0)
        .all()
    )
    alone = torch.tensor([0, 1, 3])  # the third is made of the first two
    wanted = information[alone][:, alone].inverse()[-1, -1]
    torch.testing.assert_close(made[3, 3], wanted)


@pytest.mark.parametrize("entry", [(0, 0), (0, 1), (2, 1)])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_one_entry_that_is_not_finite_spoils_its_matrix(
    entry: tuple[int, int], bad: float
) -> None:
    information = 2 * torch.eye(3)
    information[entry] = information[entry[::-1]] = bad
    assert mrsim.covariance(information).isnan().all()
    assert mrsim.logdet(information).isnan()
    assert jacrev(mrsim.covariance)(information).isnan().all()


def test_a_silent_column_takes_no_part_in_curvature() -> None:
    """Its entries vanish here but not beside here: it counts as left out."""

    def jacobian(x: Tensor) -> Tensor:
        t = torch.tensor([0.2, 0.5, 1.0, 2.0])
        return torch.stack([(-t * x).exp(), t * x, (x - 1.0) * t.sin()])

    def kept(x: Tensor) -> Tensor:
        j = jacobian(x)
        return mrsim.covariance(j @ j.mT)[:2, :2]

    def without(x: Tensor) -> Tensor:
        j = jacobian(x)[:2]
        return torch.linalg.inv(j @ j.mT)

    x = torch.tensor(1.0)
    for order in (lambda f: f, jacfwd, jacrev, hessian):
        agree(order(kept)(x), order(without)(x), 1e-10)


def test_the_logdet_of_what_is_lost_has_no_derivative() -> None:
    for k in (2, 3):
        information = batch_of_kinds().flatten(0, 1)[k]
        assert mrsim.logdet(information) == -math.inf
        assert (jacrev(mrsim.logdet)(information) == 0).all()
        assert (jacfwd(mrsim.logdet)(information) == 0).all()


@pytest.mark.parametrize("seed", range(5))
def test_a_null_vector_turned_by_rounding_takes_no_other_along(seed: int) -> None:
    """A combination that is almost without information mixes with one without any."""
    g = torch.Generator().manual_seed(seed)
    a, b, c, d, e = torch.linalg.qr(torch.randn(30, 5, generator=g))[0].mT
    jacobian = torch.stack([a + b, 1.7 * (a + b), a + c, a + c + 1e-4 * d, e + b], 1)
    found = invert(jacobian.mT @ jacobian, torch.finfo(torch.float64).eps)
    assert found.coupled.tolist() == [True, True, False, False, False]
    reduced = torch.linalg.pinv(jacobian[:, 1:])
    variances = (reduced @ reduced.mT).diagonal()[1:]
    torch.testing.assert_close(
        found.matrix.diagonal()[2:], variances, rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_comes_in_a_precision_leaves_in_it(dtype: torch.dtype) -> None:
    information = torch.tensor([[2.0, 1.0], [1.0, 3.0]], dtype=dtype)
    made = mrsim.covariance(information)
    torch.testing.assert_close(
        made, torch.tensor([[0.6, -0.2], [-0.2, 0.4]], dtype=dtype)
    )
    torch.testing.assert_close(
        mrsim.logdet(information), torch.tensor(5.0, dtype=dtype).log()
    )
    # float32 knows no more than 7 digits: what differs by less is not told apart
    near = torch.tensor([[1.0, 1.0 - 1e-7], [1.0 - 1e-7, 1.0]], dtype=dtype)
    assert mrsim.covariance(near).isinf().any() == (dtype == torch.float32)
    assert mrsim.logdet(near).isinf() == (dtype == torch.float32)
