"""Derivatives of a fit: implicit, to any order, in every voxel on its own."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, vmap

import mrsim
from mrsim import Tissue
from mrsim.fit import levenberg_marquardt

ECHOES = torch.arange(1, 9, dtype=torch.float64) * 0.012
START = Tissue(T1=1.0, T2=0.05, M0=2.0, B1=0.9)


def decay(tissue: Tissue, t: Tensor) -> Tensor:
    return tissue.M0 * tissue.B1 * (-t / tissue.T2).exp()


def noisy(generator: torch.Generator, count: int = 4) -> Tensor:
    T2 = torch.linspace(0.05, 0.1, count).unsqueeze(-1)
    return (-ECHOES / T2).exp() + 0.02 * torch.randn(count, 8, generator=generator)


def fitted(data: Tensor, start: Tissue = START, t: Tensor = ECHOES, **how: Any) -> Any:
    return levenberg_marquardt(decay, "M0", "T2", tolerance=1e-12, **how)(
        data, start, t
    )


def pair(data: Tensor) -> Tensor:
    found = fitted(data)
    return torch.stack([found.params.M0, found.params.T2])


def differences(f: Callable[[Tensor], Tensor], x: Tensor, h: float) -> Tensor:
    eye = h * torch.eye(x.numel()).reshape(-1, *x.shape)
    columns = [(f(x + e) - f(x - e)) / (2 * h) for e in eye]
    return torch.stack(columns, -1).reshape(*columns[0].shape, *x.shape)


def test_forward_reverse_and_differences_agree(generator: torch.Generator) -> None:
    data = noisy(generator)[0]
    forward, reverse = jacfwd(pair)(data), jacrev(pair)(data)
    torch.testing.assert_close(forward, reverse, rtol=1e-10, atol=1e-14)
    wanted = differences(pair, data, 1e-5)
    torch.testing.assert_close(forward, wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("slope", [jacfwd, jacrev], ids=["forward", "reverse"])
def test_every_nesting_is_the_loop(slope: Any, generator: torch.Generator) -> None:
    data = noisy(generator)
    loop = torch.stack([slope(pair)(y) for y in data])
    torch.testing.assert_close(vmap(slope(pair))(data), loop, rtol=1e-9, atol=1e-13)
    whole = slope(vmap(pair))(data)  # (voxel, p, voxel, sample)
    blocks = torch.stack([whole[k, :, k] for k in range(len(data))])
    torch.testing.assert_close(blocks, loop, rtol=1e-9, atol=1e-13)
    off = whole.movedim(1, 2)[~torch.eye(len(data)).bool()]
    assert (off == 0).all()


def test_second_derivatives(generator: torch.Generator) -> None:
    data = noisy(generator)

    def T2(y: Tensor) -> Tensor:
        return fitted(y).params.T2

    both = hessian(T2)(data[0])
    wanted = differences(lambda y: grad(T2)(y), data[0], 1e-5)
    torch.testing.assert_close(both, wanted, rtol=1e-5, atol=1e-7)
    for outer, inner in ((jacfwd, jacfwd), (jacrev, jacrev), (jacrev, jacfwd)):
        made = outer(inner(T2))(data[0])
        torch.testing.assert_close(made, both, rtol=1e-8, atol=1e-12)
    loop = torch.stack([hessian(T2)(y) for y in data])
    torch.testing.assert_close(vmap(hessian(T2))(data), loop, rtol=1e-8, atol=1e-12)


def test_known_parameters_samples_and_sigma(generator: torch.Generator) -> None:
    data = noisy(generator)[0]

    def f(known: Tensor) -> Tensor:
        start = mrsim.replace(START, B1=known[0])
        found = fitted(data, start, ECHOES * known[1], sigma=known[2])
        p, c = found.params, found.covariance
        return torch.stack([p.M0, p.T2, found.cost, c[1, 1], c[0, 1]])

    known = torch.tensor([0.9, 1.1, 0.03])
    forward, reverse = jacfwd(f)(known), jacrev(f)(known)
    torch.testing.assert_close(forward, reverse, rtol=1e-9, atol=1e-13)
    wanted = differences(f, known, 1e-6)
    torch.testing.assert_close(forward, wanted, rtol=1e-6, atol=1e-9)
    assert forward[0, 0] == pytest.approx(-float(f(known)[0]) / 0.9)
    assert forward[1, 1] == pytest.approx(float(f(known)[1]) / 1.1)


def test_start_has_no_influence(generator: torch.Generator) -> None:
    slope = grad(lambda s: fitted(noisy(generator)[0], s).params.T2)(START)
    assert slope.T2 == slope.M0 == 0
    assert slope.B1.abs() < 1e-12


def test_held_unknown_moves_with_its_bound(generator: torch.Generator) -> None:
    data = noisy(generator, 1)[0]

    def f(z: Tensor) -> Tensor:
        found = fitted(data + z[2], bounds={"T2": (z[0], z[1]), "M0": (0.0, 9.0)})
        return torch.stack([found.params.M0, found.params.T2, found.cost])

    free, low = torch.tensor([0.001, 1.0, 0.0]), torch.tensor([0.09, 1.0, 0.0])
    high = torch.tensor([0.001, 0.03, 0.0])
    for z, end in ((free, None), (low, 0), (high, 1)):
        made = jacfwd(f)(z)
        torch.testing.assert_close(jacrev(f)(z), made, rtol=1e-9, atol=1e-13)
        torch.testing.assert_close(made, differences(f, z, 1e-6), rtol=1e-5, atol=1e-8)
        assert made[1, :2].tolist() == [float(end == 0), float(end == 1)]


def test_gradients_of_many_voxels_share_what_they_share(
    generator: torch.Generator,
) -> None:
    data = noisy(generator)

    def loss(t: Tensor, B1: Tensor) -> Tensor:
        def one(y: Tensor, b: Tensor) -> Tensor:
            return fitted(y, mrsim.replace(START, B1=b), t).params.T2

        return vmap(one)(data, B1).square().sum()

    B1 = torch.linspace(0.8, 1.1, 4)
    both = grad(loss, argnums=(0, 1))(ECHOES, B1)
    wanted = differences(lambda t: loss(t, B1), ECHOES, 1e-6)
    torch.testing.assert_close(both[0], wanted, rtol=1e-6, atol=1e-9)
    assert both[1].abs().max() < 1e-12


def test_voxel_that_did_not_converge_is_nan_and_spoils_no_other(
    generator: torch.Generator,
) -> None:
    data = noisy(generator)
    data = torch.where(torch.arange(4).unsqueeze(-1) == 2, torch.nan, data)
    whole = vmap(jacfwd(pair))(data)
    assert whole[2].isnan().all()
    rest = [0, 1, 3]
    loop = torch.stack([jacfwd(pair)(data[k]) for k in rest])
    torch.testing.assert_close(whole[rest], loop, rtol=1e-9, atol=1e-13)

    def loss(data: Tensor) -> Tensor:
        found = vmap(fitted)(data)
        return torch.where(found.converged, found.params.T2, 0.0).sum()

    slope = grad(loss)(data)
    assert slope.isfinite().all()
    assert (slope[2] == 0).all()
    torch.testing.assert_close(slope[rest], loop[:, 1], rtol=1e-9, atol=1e-13)


def test_single_precision_stays_single(generator: torch.Generator) -> None:
    data = noisy(generator)[0].float()
    start, t = mrsim.to((START, ECHOES), dtype=torch.float32)

    def T2(y: Tensor) -> Tensor:
        return levenberg_marquardt(decay, "M0", "T2")(y, start, t).params.T2

    for slope in (jacfwd, jacrev):
        made = slope(T2)(data)
        assert made.dtype == torch.float32
        exact = jacfwd(lambda y: pair(y)[1])(data.double())
        torch.testing.assert_close(made.double(), exact, rtol=1e-2, atol=1e-4)
