"""Spherical deconvolution of one shell."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, vmap
from tract.fibre_signals import (
    AXIAL,
    RADIAL,
    B,
    dwi2fod,
    needs_mrtrix,
    put_image,
    read,
    shell,
    shells,
    slope,
    unit,
)

from mrsim import tract


def test_two_fibres_are_resolved(generator: torch.Generator) -> None:
    _, q = shell(1, generator)
    u = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.75**0.5, 0.0]])
    decay = RADIAL + (AXIAL - RADIAL) * (q.directions @ u.mT) ** 2
    fod = tract.csd((-B * decay).exp().mean(-1), q)
    points = tract.hemisphere(4000)
    values = tract.harmonics(points, 8) @ fod
    for axis in u:
        near = (points @ axis).abs() > 0.97
        best = points[near][values[near].argmax()]
        assert float((best @ axis).abs()) > 0.997
    between = tract.harmonics(unit(u.sum(0)), 8) @ fod
    assert between < 0.4 * values.max()


def test_result_is_the_minimum(generator: torch.Generator) -> None:
    signals, q = shell(40, generator)
    found = vmap(tract.deconvolve, in_dims=(0, None))(signals, q)
    assert bool(found.settled.all())
    a = tract.convolution(q.directions, q.response, 8)
    rows = tract.harmonics(tract.hemisphere(300), 8)
    weight = (50 * q.response[0] / 300) ** 2
    ridge = 2e-4 * (a[:, 0] @ a[:, 0])

    def cost(f: Tensor, s: Tensor) -> Tensor:
        lack = (rows @ f).clamp_max(0).square().sum()
        misfit = (a @ f - s).square().sum()
        return (misfit + ridge * f.square().sum() + weight * lack) / 2

    forces = vmap(grad(cost))(found.x, signals)
    assert forces.abs().max() < 1e-12 * (signals @ a).abs().max()
    assert (found.active.sum(-1) > 30).all()


def test_derivatives_are_differences(generator: torch.Generator) -> None:
    signals, q = shell(3, generator)
    for s in signals:
        made = jacfwd(tract.csd)(s, q)
        assert torch.allclose(made, jacrev(tract.csd)(s, q), atol=1e-11)
        way = torch.randn(60, generator=generator)
        wanted = slope(lambda x: tract.csd(x, q), s, way, 1e-7)
        assert torch.allclose(made @ way, wanted, atol=1e-6 * float(wanted.abs().max()))
    s = signals[0]
    for name in ("directions", "response"):
        x = getattr(q, name)
        way = torch.randn(x.shape, generator=generator) * x.abs().max() * 0.1

        def f(x: Tensor, name: str = name) -> Tensor:
            fixed = {n: getattr(q, n) for n in ("directions", "response")}
            return tract.csd(s, tract.CSD(**(fixed | {name: x})))

        made = torch.func.jvp(f, (x,), (way,))[1]
        wanted = slope(f, x, way, 1e-6)
        assert torch.allclose(made, wanted, atol=1e-6 * float(wanted.abs().max()))
        assert made.abs().max() > 1e-3


def test_second_derivatives(generator: torch.Generator) -> None:
    signals, q = shell(1, generator)
    s = signals[0]

    def f(r: Tensor) -> Tensor:
        q2 = tract.CSD(directions=q.directions, response=r)
        return tract.csd(s, q2).square().sum()

    made = hessian(f)(q.response)
    way = 0.1 * q.response
    wanted = slope(grad(f), q.response, way, 1e-5)
    assert torch.allclose(
        made @ way, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max())
    )
    assert torch.allclose(made, jacrev(jacfwd(f))(q.response), rtol=1e-9)


def test_mapped_jacobians_are_loops(generator: torch.Generator) -> None:
    signals, q = shell(3, generator)
    each = vmap(jacfwd(tract.csd), in_dims=(0, None))(signals, q)
    loop = torch.stack([jacrev(tract.csd)(s, q) for s in signals])
    assert torch.allclose(each, loop, atol=1e-11)
    responses = q.response * torch.tensor([[1.0], [1.1]])

    def with_response(s: Tensor, r: Tensor) -> Tensor:
        return tract.csd(s, tract.CSD(directions=q.directions, response=r))

    both = vmap(vmap(with_response, in_dims=(None, 0)), in_dims=(0, None))
    nested = both(signals, responses)
    rows = [[with_response(s, r) for r in responses] for s in signals]
    assert torch.allclose(
        nested, torch.stack([torch.stack(r) for r in rows]), atol=1e-12
    )
    other = vmap(vmap(with_response, in_dims=(0, None)), in_dims=(None, 0), out_dims=1)
    assert torch.allclose(other(signals, responses), nested, atol=1e-12)


def test_a_bad_voxel_spoils_no_other(generator: torch.Generator) -> None:
    for signals, q, f in (
        (*shell(5, generator), tract.csd),
        (*shells(5, generator), lambda s, q: tract.msmt(s, q).fod),
    ):
        bad = signals.clone()
        bad[1, 7], bad[3] = torch.nan, torch.inf
        good = [0, 2, 4]
        one, two = (vmap(f, in_dims=(0, None))(x, q) for x in (signals, bad))
        assert torch.equal(one[good], two[good])
        assert not two[[1, 3]].isfinite().any()
        steep, wrong = (
            vmap(grad(lambda s, f=f, q=q: f(s, q).square().sum()))(x)
            for x in (signals, bad)
        )
        assert torch.equal(steep[good], wrong[good])
        zero = f(torch.zeros_like(signals[0]), q)
        assert bool((zero == 0).all())


def test_single_precision_and_meta(generator: torch.Generator) -> None:
    signals, q = shell(4, generator)
    small = tract.CSD(directions=q.directions.float(), response=q.response.float())
    made = vmap(tract.csd, in_dims=(0, None))(signals.float(), small)
    exact = vmap(tract.csd, in_dims=(0, None))(signals, q)
    assert made.dtype == torch.float32
    assert torch.allclose(made.double(), exact, atol=1e-4)
    away = tract.CSD(
        **{n: getattr(q, n).to("meta") for n in ("directions", "response")}
    )
    assert tract.csd(signals[0].to("meta"), away).device.type == "meta"


def test_response_of_each_volume(generator: torch.Generator) -> None:
    signals, q = shell(1, generator)
    rows = q.response.expand(60, -1)
    each = tract.CSD(directions=q.directions, response=rows)
    assert torch.allclose(tract.csd(signals[0], each), tract.csd(signals[0], q))


def test_bad_input_is_refused(generator: torch.Generator) -> None:
    signals, q = shell(2, generator)
    with pytest.raises(ValueError, match="vmap"):
        tract.csd(signals, q)
    with pytest.raises(ValueError, match="volume"):
        tract.csd(signals[0, :50], q)
    with pytest.raises(TypeError, match="float32"):
        tract.csd(signals[0].float(), q)
    odd = tract.CSD(directions=q.directions, response=q.response, lmax=7)
    with pytest.raises(ValueError, match="even"):
        tract.csd(signals[0], odd)


@needs_mrtrix
def test_csd_is_that_of_mrtrix(tmp_path: Path, generator: torch.Generator) -> None:
    signals, q = shell(150, generator)
    signals = put_image(tmp_path / "x.nii", signals, q.directions, B.expand(60))
    np.savetxt(tmp_path / "r.txt", q.response[None].numpy())
    table = ["-grad", "x.b", "-directions", "x.dirs"]
    dwi2fod(tmp_path, "csd", "x.nii", "r.txt", "fod.nii", *table)
    made = vmap(tract.csd, in_dims=(0, None))(signals, q)
    wanted = read(tmp_path / "fod.nii")
    assert (made - wanted).abs().max() < 2e-7 * wanted.abs().max()
