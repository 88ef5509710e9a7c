"""Inverses and determinants of Fisher matrices, also of singular ones."""

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, vmap

import mrsim
from mrsim._covariance import invert


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
