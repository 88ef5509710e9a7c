"""Tissue → DWI → CSD → tracks → losses, in one derivative."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, jacfwd, jacrev, jvp, vmap

import mrsim
from mrsim import tract

GRID = (7, 6, 3)
AFFINE = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0]))
SEEDS = torch.tensor([[1.13, 4.07, 2.11], [1.21, 5.83, 1.94], [1.07, 7.31, 2.27]])
DIRECTION = torch.tensor([1.0, 0.0, 0.0])
LMAX = 4


@mrsim.record
class Bend:
    """A field of fibres that turn as they go."""

    angle: Tensor  # () at the origin [rad]
    bend: Tensor  # () growth of the angle along x [rad/mm]


def ways(tissue: Bend) -> Tensor:
    """Return the fibres' directions (x, y, z, 3)."""
    index = torch.stack(torch.meshgrid(*map(torch.arange, GRID), indexing="ij"), -1)
    angle = tissue.angle + tissue.bend * 2.0 * index[..., 0].to(tissue.angle)
    return torch.stack([angle.cos(), angle.sin(), 0 * angle], -1)


def scheme() -> tract.Scheme:
    g = tract.hemisphere(24)
    return tract.Scheme(b=torch.full((24,), 2500.0), directions=g)


def dwi(tissue: Bend, q: tract.Scheme) -> Tensor:
    """Return signals (x, y, z, volume)."""
    along = (ways(tissue) @ q.directions.mT).square()
    crossing = q.directions[:, 2].square()
    one, two = ((-q.b * (3e-4 + 1.4e-3 * a)).exp() for a in (along, crossing))
    return 0.7 * one + 0.3 * two


def fods(signals: Tensor, q: tract.Scheme) -> Tensor:
    size = {"axial": torch.tensor(1.7e-3), "radial": torch.tensor(3e-4)}
    response = tract.tensor_response(q.b, **size, lmax=LMAX)
    how = tract.CSD(directions=q.directions, response=response, lmax=LMAX)
    found = vmap(tract.csd, in_dims=(0, None))(signals.flatten(0, 2), how)
    return found.unflatten(0, GRID)


def tracks(coefficients: Tensor) -> tract.Track:
    field = tract.Field(coefficients=coefficients, affine=AFFINE)
    rules = {"step": 0.9, "minlength": 1.0, "maxlength": 8.0, "unidirectional": True}
    plain = tract.Field(coefficients=torch.zeros(2, 2, 2, 15), affine=AFFINE)
    options = tract.options(plain, **rules)
    seeds = tract.Seed(position=SEEDS, direction=DIRECTION.expand(3, 3).contiguous())
    return vmap(tract.stream, in_dims=(0, None, None))(seeds, field, options)


TISSUE = Bend(angle=0.12, bend=0.031)
TARGET = Bend(angle=-0.05, bend=0.02)


def noisy() -> Tensor:
    generator = torch.Generator().manual_seed(5)
    clean = dwi(TISSUE, scheme())
    return clean + 0.01 * torch.randn(clean.shape, generator=generator)


def five(f: Any, h: float) -> Tensor:
    return (8 * (f(h) - f(-h)) - f(2 * h) + f(-2 * h)) / (12 * h)


def test_the_chain_has_the_right_derivative() -> None:
    q = scheme()
    goal = tracks(fods(dwi(TARGET, q), q))

    def loss(tissue: Bend, q: tract.Scheme) -> Tensor:
        found = tracks(fods(dwi(tissue, q), q))
        return tract.bundle_distance(
            found.points, found.length, goal.points.detach(), goal.length, vertices=8
        )

    slope = grad(loss)(TISSUE, q)
    pushed = jacfwd(loss)(TISSUE, q)
    for name in ("angle", "bend"):
        x = getattr(TISSUE, name)

        def at(t: float, name: str = name, x: Tensor = x) -> Tensor:
            return loss(mrsim.replace(TISSUE, **{name: x + t}), q)

        made = getattr(slope, name)
        assert torch.allclose(made, five(at, 1e-5), rtol=1e-5)
        assert torch.allclose(made, getattr(pushed, name), rtol=1e-9)
        assert abs(float(made)) > 0.1
    # the acquisition has a gradient too
    turned = grad(loss, argnums=1)(TISSUE, q)
    assert turned.directions.isfinite().all()
    assert turned.directions.abs().max() > 1e-4
    assert turned.b.abs().max() > 1e-9


def test_descent_brings_tracks_to_their_target() -> None:
    q = scheme()
    goal = tracks(fods(dwi(TARGET, q), q))

    def loss(x: Tensor) -> Tensor:
        tissue = Bend(angle=x[0], bend=x[1])
        found = tracks(fods(dwi(tissue, q), q))
        apart = tract.mdf
        return vmap(apart)(found.points, goal.points.detach()).mean()

    x = torch.stack([TISSUE.angle, TISSUE.bend])
    scale = torch.tensor([1.0, 0.03])
    first = loss(x)
    for k in range(12):
        x = x - 0.06 * 0.75**k * scale * torch.sign(grad(loss)(x))
    assert loss(x) < 0.15 * first


def ending(signals: Tensor) -> Tensor:
    """Return where the tracks end (seed, 3)."""
    found = tracks(fods(signals, scheme()))
    return vmap(tract.ends)(found.points, found.length)[:, 1]


def test_noise_in_the_data_moves_the_end_as_the_jacobian_says() -> None:
    signals = noisy()
    generator = torch.Generator().manual_seed(7)
    draws = torch.randn(6, *signals.shape, generator=generator)
    pushed = torch.stack([jvp(ending, (signals,), (d,))[1] for d in draws])
    for d, p in zip(draws, pushed, strict=True):
        wanted = five(lambda t, d=d: ending(signals + t * d), 1e-7)
        assert torch.allclose(p, wanted, atol=1e-5 * float(wanted.abs().max()))
    j = jacrev(lambda s: ending(s)[0])(signals)
    along = torch.einsum("cxyzv,kxyzv->kc", j, draws)
    assert torch.allclose(along, pushed[:, 0], atol=1e-9 * float(along.abs().max()))
    # the variance of the end point is σ² J Jᵀ: no repetition of the experiment
    sigma = 1e-4
    spread = sigma * j.flatten(1).square().sum(-1).sqrt()
    many = sigma * torch.randn(60, *signals.shape, generator=generator)
    seen = torch.stack([ending(signals + d)[0] for d in many]).std(0)
    assert torch.allclose(spread[:2], seen[:2], rtol=0.35)


def test_bound_of_an_end_point_and_its_gradient_in_the_scheme() -> None:
    q = scheme()

    def end(tissue: Bend) -> Tensor:
        fod = vmap(lambda u: tract.delta_fod(u[None], u.new_ones(1), LMAX))
        return vmap(tract.ends)(
            *(lambda t: (t.points, t.length))(
                tracks(fod(ways(tissue).flatten(0, 2)).unflatten(0, GRID))
            )
        )[1, 1, 1]

    def bound(q: tract.Scheme) -> Tensor:
        """Return the least sd of the end's y [mm], of any unbiased estimate."""
        information = mrsim.fisher(dwi, "angle", "bend", sigma=0.05)(TISSUE, q)
        slope = grad(end)(TISSUE)
        v = torch.stack([slope.angle, slope.bend])
        return (v @ mrsim.covariance(information) @ v).sqrt()

    now = bound(q)
    assert 0 < now < 1
    slope = grad(bound)(q)
    generator = torch.Generator().manual_seed(1)
    for name in ("b", "directions"):
        x = getattr(q, name)
        way = torch.randn(x.shape, generator=generator)
        h = 1e-3 if name == "directions" else 10.0

        def at(t: float, name: str = name, x: Tensor = x, way: Tensor = way) -> Tensor:
            return bound(mrsim.replace(q, **{name: x + t * way}))

        made = (getattr(slope, name) * way).sum()
        assert torch.allclose(made, five(at, h), rtol=1e-4)
    # more weighting where the signal still stands tells more
    better = mrsim.replace(q, b=q.b - 300 * slope.b / slope.b.abs().max())
    assert bound(better) < now


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_soft_maps_of_tracks_follow_the_tissue(mode: str) -> None:
    q = scheme()
    parcels = torch.zeros(*GRID, 2)
    weight = torch.linspace(0, 1, GRID[1])[None, :, None].expand(GRID)
    parcels = torch.stack([weight, 1 - weight], -1)

    def f(angle: Tensor) -> Tensor:
        found = tracks(fods(dwi(Bend(angle=angle, bend=TISSUE.bend), q), q))
        heat = tract.density(found.points, found.length, AFFINE, GRID)
        links = tract.connectome(found.points, found.length, parcels, AFFINE)
        return torch.stack([(heat * weight).sum(), links[0, 1], links[0, 0]])

    jac = jacfwd if mode == "forward" else jacrev
    made = jac(f)(TISSUE.angle)
    wanted = five(lambda t: f(TISSUE.angle + t), 1e-6)
    assert torch.allclose(made, wanted, rtol=1e-4, atol=1e-6)
    assert made.abs().min() > 1e-3
