"""Variable projection: the same minimum as Levenberg-Marquardt, phases included."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import hessian, jacfwd, jacrev, vmap

import mrsim
from mrsim import Tissue, epg
from mrsim.fit import Fit, levenberg_marquardt, variable_projection
from mrsim.units import deg, ms

ECHOES = torch.arange(1, 13, dtype=torch.float64) * 0.012
START = Tissue(T1=1.0, T2=0.05, M0=7.0)


@mrsim.record
class Mixture:
    """Two decays."""

    weight: Tensor  # (2,)
    rate: Tensor  # (2,)


def decay(tissue: Tissue, t: Tensor) -> Tensor:
    return tissue.M0 * (-t / tissue.T2).exp()


def mixed(p: Mixture, t: Tensor) -> Tensor:
    return (-t.unsqueeze(-1) * p.rate).exp() @ p.weight


def noisy(generator: torch.Generator, count: int = 6) -> Tensor:
    T2 = torch.linspace(0.04, 0.12, count).unsqueeze(-1)
    return (-ECHOES / T2).exp() + 0.02 * torch.randn(count, 12, generator=generator)


def mapped(fit: Any, data: Tensor, start: Any, *args: Any) -> Fit:
    return vmap(fit, (0, 0, *(None,) * len(args)))(
        data, mrsim.expand(start, len(data)), *args
    )


def test_it_finds_the_minimum_of_levenberg_marquardt(
    generator: torch.Generator,
) -> None:
    data, bounds = noisy(generator), {"T2": (0.05, 0.09)}
    ours = mapped(
        variable_projection(decay, "T2", bounds=bounds, tolerance=1e-9),
        data,
        START,
        ECHOES,
    )
    both = levenberg_marquardt(decay, "T2", "M0", bounds=bounds, tolerance=1e-9)
    theirs = mapped(both, data, START, ECHOES)
    assert ours.converged.all()
    for name in ("T2", "M0"):
        pair = (getattr(found.params, name) for found in (ours, theirs))
        torch.testing.assert_close(*pair, rtol=1e-7, atol=0)
    torch.testing.assert_close(ours.cost, theirs.cost)
    torch.testing.assert_close(ours.covariance, theirs.covariance, rtol=1e-6, atol=0)
    assert torch.equal(ours.at_bound, theirs.at_bound)
    assert ours.at_bound[:, 0].sum() >= 2
    assert ours.iterations.sum() < theirs.iterations.sum()


def test_an_unknown_phase_costs_nothing(generator: torch.Generator) -> None:
    phase = torch.linspace(-3, 3, 6)
    turn = torch.polar(torch.ones(6), phase).unsqueeze(-1)
    extra = 0.02 * torch.randn(6, 12, generator=generator)
    data = turn * torch.complex(noisy(generator), extra)
    found = mapped(variable_projection(decay, "T2", sigma=0.02), data, START, ECHOES)
    assert found.converged.all()
    assert found.phase is not None
    turned = data * torch.polar(torch.ones(6), -found.phase).unsqueeze(-1)
    real = mapped(
        variable_projection(decay, "T2", sigma=0.02), turned.real, START, ECHOES
    )
    torch.testing.assert_close(found.params.T2, real.params.T2, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.params.M0, real.params.M0, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.covariance, real.covariance, rtol=1e-5, atol=1e-12)
    away = (found.phase - phase + math.pi) % (2 * math.pi) - math.pi
    assert away.abs().max() < 0.05


def test_several_amplitudes_and_array_fields(generator: torch.Generator) -> None:
    truth = Mixture(weight=[0.4, 0.6], rate=[60.0, 8.0])
    t = torch.linspace(0, 0.3, 40)
    data = mixed(truth, t) + 1e-3 * torch.randn(20, 40, generator=generator)
    start = Mixture(weight=[0.0, 0.0], rate=[90.0, 4.0])
    fit = variable_projection(mixed, "rate", linear="weight", sigma=1e-3)
    found = mapped(fit, data, start, t)
    assert found.converged.all()
    assert found.covariance.shape == (20, 4, 4)
    bound = mrsim.crlb(mixed, "rate", "weight", sigma=1e-3)(truth, t)
    for name in ("rate", "weight"):
        error = getattr(found.params, name) - getattr(truth, name)
        assert ((error / getattr(bound, name).sqrt()).abs() < 4.5).all()
    sds = found.covariance.diagonal(dim1=1, dim2=2).mean(0)
    torch.testing.assert_close(sds[:2], bound.rate, rtol=0.2, atol=0)


def test_derivatives_are_implicit_and_of_any_order(generator: torch.Generator) -> None:
    data = noisy(generator, 1)[0]
    turn = torch.tensor([0.3, 0.02])

    def T2(z: Tensor) -> Tensor:
        """Return T2, M0 and the phase of data that a parameter turns and lifts."""
        wave = torch.complex(z[0].cos(), z[0].sin()) * (data + z[1])
        found = variable_projection(decay, "T2", tolerance=1e-12)(wave, START, ECHOES)
        assert found.phase is not None
        return torch.stack([found.params.T2, found.params.M0, found.phase])

    forward = jacfwd(T2)(turn)
    torch.testing.assert_close(jacrev(T2)(turn), forward, rtol=1e-9, atol=1e-13)
    h = 1e-5 * torch.eye(2)
    wanted = torch.stack([(T2(turn + e) - T2(turn - e)) / 2e-5 for e in h], 1)
    torch.testing.assert_close(forward, wanted, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(forward[:, 0], torch.tensor([0.0, 0.0, 1.0]))
    bend = hessian(lambda z: T2(z)[0])(turn)
    slopes = torch.stack(
        [(jacfwd(T2)(turn + e)[0] - jacfwd(T2)(turn - e)[0]) / 2e-5 for e in h]
    )
    torch.testing.assert_close(bend, slopes, rtol=1e-5, atol=1e-7)


def test_bad_voxels_spoil_no_other(generator: torch.Generator) -> None:
    data = noisy(generator)
    clean = mapped(variable_projection(decay, "T2"), data, START, ECHOES)
    rows = torch.arange(6).unsqueeze(-1)
    data = torch.where(rows == 2, torch.nan, torch.where(rows == 4, 0.0, data))
    found = mapped(variable_projection(decay, "T2"), data, START, ECHOES)
    rest = [0, 1, 3, 5]
    assert torch.equal(found.params.T2[rest], clean.params.T2[rest])
    assert found.converged.tolist() == [True, True, False, True, False, True]
    for x in (found.params.T2, found.params.M0, found.cost):
        assert x[[2, 4]].isnan().all()


def test_echo_trains_with_a_known_transmit_field() -> None:
    train = epg.FSE(flip=[140 * deg] * 12, esp=9 * ms)
    B1 = torch.linspace(0.8, 1.2, 5)
    truth = mrsim.grid(Tissue(T1=1.0, T2=0.08, M0=3.0), B1=B1)
    data = vmap(epg.fse, (0, None))(truth, train)
    start = mrsim.replace(truth, T2=torch.full((5,), 0.04), M0=torch.ones(5))
    found = vmap(variable_projection(epg.fse, "T2"), (0, 0, None))(data, start, train)
    torch.testing.assert_close(found.params.T2, truth.T2, rtol=1e-8, atol=0)
    torch.testing.assert_close(found.params.M0, truth.M0, rtol=1e-8, atol=0)
    free = variable_projection(epg.fse, "T2", "B1", bounds={"B1": (0.5, 1.25)})
    both = vmap(free, (0, 0, None))(
        data, mrsim.replace(start, B1=torch.full((5,), 1.0)), train
    )
    seen = (B1 - 1).abs() > 1e-6  # near a flip of 140·B1 = 180 two B1 are alike
    torch.testing.assert_close(both.params.T2[seen], truth.T2[seen], rtol=1e-5, atol=0)


def test_misuse_is_explained() -> None:
    data = decay(START, ECHOES)
    with pytest.raises(ValueError, match="bounds are given for 'M0'"):
        variable_projection(decay, "T2", bounds={"M0": (0, 1)})(data, START, ECHOES)
    with pytest.raises(ValueError, match=r"\(12,\), got \(2, 12\)"):
        variable_projection(decay, "T2")(torch.stack([data, data]), START, ECHOES)
    with pytest.raises(TypeError, match=r"\.real"):
        variable_projection(lambda p, t: decay(p, t) * (1 + 0j), "T2")(
            data, START, ECHOES
        )
    with pytest.raises(ValueError, match="an unknown to search for"):
        variable_projection(decay, "M0")(data, START, ECHOES)
    # of as many samples as unknowns it would scale the covariance's columns
    with pytest.raises(ValueError, match="sigma must be a number"):
        variable_projection(decay, "T2", sigma=torch.ones(2))(
            data[:2], START, ECHOES[:2]
        )


@pytest.mark.parametrize("fit", [levenberg_marquardt, variable_projection])
def test_data_where_names_belong_are_refused(fit: Any) -> None:
    start = mrsim.Tissue(T1=1.0, T2=0.1)
    with pytest.raises(TypeError, match="takes names of fields and makes a function"):
        fit(lambda tissue: tissue.T2[None], torch.ones(1), start)
