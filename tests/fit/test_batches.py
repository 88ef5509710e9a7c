"""Fits of many voxels: every batch is the loop, and no voxel spoils another."""

import math

import pytest
import torch
from fit_models import ECHOES, decay, noisy, start
from torch import Tensor
from torch.func import vmap

import mrsim
from mrsim import Tissue
from mrsim.fit import Fit, levenberg_marquardt


def same(a: Fit, b: Fit, tolerance: float = 0.0) -> bool:
    pairs = zip(mrsim.tree.tree_leaves(a), mrsim.tree.tree_leaves(b), strict=True)
    return all(
        torch.allclose(x, y, rtol=tolerance, atol=tolerance, equal_nan=True)
        for x, y in pairs
    )


def test_batch_is_the_loop(generator: torch.Generator) -> None:
    _, data = noisy(12, 0.02, generator)
    fit = levenberg_marquardt(decay, "M0", "T2", bounds={"T2": (0.04, 0.12)})
    guess = start(12)
    whole = vmap(fit, in_dims=(0, 0, None))(data, guess, ECHOES)
    for k in range(12):
        voxel = mrsim.tree.tree_map(lambda v, k=k: v[k], guess)
        one = fit(data[k], voxel, ECHOES)
        assert same(one, mrsim.tree.tree_map(lambda v, k=k: v[k], whole), 1e-12)
    part = mrsim.tree.tree_map(lambda v: v[:1], guess)
    first = vmap(fit, in_dims=(0, 0, None))(data[:1], part, ECHOES)
    assert same(first, mrsim.tree.tree_map(lambda v: v[:1], whole), 1e-12)


def test_nested_vmap_folds_every_pattern_of_axes(generator: torch.Generator) -> None:
    _, data = noisy(6, 0.02, generator)
    fit = levenberg_marquardt(decay, "M0", "T2")
    flat = vmap(fit, in_dims=(0, 0, None))(data, start(6), ECHOES)
    grid = data.reshape(2, 3, 8)
    inner = vmap(fit, in_dims=(0, None, None))
    both = vmap(inner, in_dims=(0, None, None))(
        grid, Tissue(T1=1.0, T2=0.05, M0=2.0), ECHOES
    )
    assert same(mrsim.tree.tree_map(lambda v: v.flatten(0, 1), both), flat, 1e-12)
    guesses = start(3)
    rows = vmap(vmap(fit, in_dims=(0, 0, None)), in_dims=(0, None, None))
    assert same(rows(grid, guesses, ECHOES), both, 1e-12)
    turned = vmap(vmap(fit, in_dims=(1, None, None)), in_dims=(0, 0, None))
    guesses = start(2)
    assert same(turned(grid.transpose(1, 2), guesses, ECHOES), both, 1e-12)


def test_chunks_do_not_change_the_fit(generator: torch.Generator) -> None:
    _, data = noisy(50, 0.02, generator)
    fit = levenberg_marquardt(decay, "M0", "T2")
    whole = vmap(fit, in_dims=(0, 0, None))(data, start(50), ECHOES)
    parts = mrsim.batched(fit, in_dims=(0, 0, None), memory=10_000)
    assert same(parts(data, start(50), ECHOES), whole, 1e-12)


def test_known_values_may_differ_between_voxels(generator: torch.Generator) -> None:
    def model(tissue: Tissue, t: Tensor) -> Tensor:
        return tissue.B1 * decay(tissue, t)

    truth, data = noisy(5, 0.0, generator)
    B1 = torch.linspace(0.7, 1.3, 5)
    found = vmap(levenberg_marquardt(model, "M0", "T2"), in_dims=(0, 0, None))(
        data, mrsim.replace(start(5), B1=B1), ECHOES
    )
    torch.testing.assert_close(found.params.M0, 1 / B1)
    assert torch.equal(found.params.B1, B1)
    torch.testing.assert_close(found.params.T2, truth.T2)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["data", "start", "known"])
def test_bad_voxel_is_reported_and_spoils_no_other(
    bad: float, where: str, generator: torch.Generator
) -> None:
    def model(tissue: Tissue, t: Tensor) -> Tensor:
        return tissue.B1 * decay(tissue, t)

    _, data = noisy(5, 0.02, generator)
    guess = mrsim.replace(start(5), B1=torch.ones(5))
    fit = vmap(levenberg_marquardt(model, "M0", "T2"), in_dims=(0, 0, None))
    clean = fit(data, guess, ECHOES)
    hole = torch.tensor([0.0, 0.0, bad, 0.0, 0.0])
    if where == "data":
        data = data + hole.unsqueeze(-1)
    elif where == "start":
        guess = mrsim.replace(guess, T2=guess.T2 + hole)
    else:
        guess = mrsim.replace(guess, B1=guess.B1 + hole)
    found = fit(data, guess, ECHOES)
    rest = [0, 1, 3, 4]
    pick = mrsim.tree.tree_map(lambda v: v[rest], (found, clean))
    assert same(*pick)
    assert not found.converged[2]
    assert found.params.T2[2].isnan()
    assert found.covariance[2].isnan().all()


def test_empty_voxel_is_reported(generator: torch.Generator) -> None:
    _, data = noisy(3, 0.02, generator)
    data = data * torch.tensor([1.0, 0.0, 1.0]).unsqueeze(-1)
    found = vmap(levenberg_marquardt(decay, "M0", "T2"), (0, 0, None))(
        data, start(3), ECHOES
    )
    assert found.converged.tolist() == [True, False, True]
    assert found.params.T2.isnan().tolist() == [False, True, False]
    assert found.covariance[1].isnan().all()
    assert found.iterations[1] == 0


def test_voxel_of_pure_noise_stays_in_bounds(generator: torch.Generator) -> None:
    data = 0.01 * torch.randn(200, 8, generator=generator)
    bounds = {"M0": (0.0, 10.0), "T2": (0.01, 1.0)}
    fit = vmap(levenberg_marquardt(decay, "M0", "T2", bounds=bounds), (0, 0, None))
    found = fit(data, start(200), ECHOES)
    assert ((found.params.M0 >= 0) & (found.params.M0 <= 10)).all()
    assert ((found.params.T2 >= 0.01) & (found.params.T2 <= 1)).all()
    empty = found.params.M0 == 0
    assert 0 < empty.sum() < 200
    assert (found.covariance[empty, 1, 1] == math.inf).all()
    assert not found.converged[empty].any()
    assert found.converged[~empty].double().mean() > 0.98


def test_float32_stays_float32_and_agrees(generator: torch.Generator) -> None:
    _, data = noisy(50, 0.02, generator)
    fit = vmap(
        levenberg_marquardt(decay, "M0", "T2", bounds={"T2": (0.01, 1)}), (0, 0, None)
    )
    double = fit(data, start(50), ECHOES)
    single = fit(data.float(), mrsim.to(start(50), dtype=torch.float32), ECHOES.float())
    assert single.params.T2.dtype == single.covariance.dtype == torch.float32
    assert single.converged.all()
    sd = double.covariance[:, 1, 1].sqrt()
    assert ((single.params.T2 - double.params.T2).abs() < 0.01 * sd).all()
    torch.testing.assert_close(
        single.covariance.double(), double.covariance, rtol=1e-2, atol=1e-9
    )


def test_bounds_may_differ_between_voxels(generator: torch.Generator) -> None:
    _, data = noisy(4, 0.02, generator)
    ends = torch.tensor([0.02, 0.05, 0.08, 0.1])

    def one(data: Tensor, end: Tensor) -> Fit:
        fit = levenberg_marquardt(decay, "M0", "T2", bounds={"T2": (None, end)})
        return fit(data, Tissue(T1=1.0, T2=0.01, M0=1.0), ECHOES)

    found = vmap(one)(data, ends)
    assert torch.equal(found.params.T2[:3], ends[:3]) or (found.params.T2 <= ends).all()
    assert found.at_bound[0, 1]


def test_inputs_stay_as_they_are(generator: torch.Generator) -> None:
    _, data = noisy(3, 0.02, generator)
    guess = start(3)
    before = [v.clone() for v in (data, *mrsim.tree.tree_leaves(guess))]
    fit = vmap(levenberg_marquardt(decay, "M0", "T2"), (0, 0, None), randomness="error")
    first, second = fit(data, guess, ECHOES), fit(data, guess, ECHOES)
    assert same(first, second)
    after = (data, *mrsim.tree.tree_leaves(guess))
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
