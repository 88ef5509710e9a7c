"""Spherical deconvolution of many shells, none of its tissues negative."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import jacfwd, jacrev, vmap
from tract.fibre_signals import (
    AXIAL,
    RADIAL,
    dwi2fod,
    needs_mrtrix,
    put_image,
    read,
    shells,
    slope,
)

from mrsim import tract
from mrsim.tract import nonnegative


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pure_water_is_settled(dtype: torch.dtype) -> None:
    """All amplitudes vanish at once there: multipliers are not unique."""
    b = torch.tensor([0.0] * 6 + [1e3] * 40 + [3e3] * 60, dtype=dtype)
    size = torch.tensor([AXIAL, RADIAL], dtype=dtype)
    q = tract.MSMT(
        directions=tract.hemisphere(106).to(dtype),
        fibre=tract.tensor_response(b, *size),
        isotropic=3.545 * (-b * 3e-3).exp().unsqueeze(-1),
    )
    found = tract.deconvolve_tissues(0.5 * (-b * 3e-3).exp(), q)
    assert bool(found.settled)
    assert found.x[:-1].abs().max() < 1e-12
    assert float(found.x[-1]) == pytest.approx(0.5 / 3.545, rel=1e-6)


def test_tissues_meet_the_conditions_of_the_minimum(generator: torch.Generator) -> None:
    signals, q = shells(60, generator)
    signals[:5] = (
        0.4 * (-3e-3 * torch.tensor([0.0] * 4 + [1e3] * 22 + [3e3] * 40)).exp()
    )
    found = vmap(tract.deconvolve_tissues, in_dims=(0, None))(signals, q)
    assert bool(found.settled.all())
    fibre = tract.convolution(q.directions, q.fibre, 6)
    a = torch.cat([fibre, q.isotropic], -1)
    rows = torch.block_diag(tract.harmonics(tract.hemisphere(300), 6), torch.eye(2))
    amplitude = found.x @ rows.mT
    size = amplitude.abs().amax(-1, keepdim=True)
    assert (amplitude / size).min() > -1e-9
    # the force is a sum of acting rows with weights that push outwards only
    force = found.x @ (a.mT @ a) - signals @ a
    for x, f in zip(found.active, force, strict=True):
        nnls = pytest.importorskip("scipy.optimize").nnls
        residual = nnls(rows[x].mT.numpy(), f.numpy(), maxiter=10_000)[1]
        assert residual < 1e-7 * float((signals @ a).abs().max())
    tissues = vmap(tract.msmt, in_dims=(0, None))(signals, q)
    assert torch.allclose(
        tissues.isotropic[:5, 1], torch.tensor(0.4 / (4 * torch.pi) ** 0.5), atol=1e-3
    )
    assert tissues.isotropic.min() > -1e-12


def test_tissue_derivatives_are_differences(generator: torch.Generator) -> None:
    signals, q = shells(3, generator)

    def both(s: Tensor, g: Tensor, r: Tensor, i: Tensor) -> Tensor:
        q2 = tract.MSMT(directions=g, fibre=r, isotropic=i, lmax=6)
        x = tract.msmt(s, q2)
        return torch.cat([x.fod, x.isotropic])

    for s in signals:
        args = (s, q.directions, q.fibre, q.isotropic)
        forward = jacfwd(both, argnums=(0, 1, 2, 3))(*args)
        reverse = jacrev(both, argnums=(0, 1, 2, 3))(*args)
        for k, (a, b) in enumerate(zip(forward, reverse, strict=True)):
            assert torch.allclose(a, b, atol=1e-9 * float(a.abs().max()))
            way = torch.randn(args[k].shape, generator=generator)

            def f(x: Tensor, k: int = k, args: Any = args) -> Tensor:
                return both(*(x if j == k else y for j, y in enumerate(args)))

            wanted = slope(f, args[k], way, 1e-7)
            made = (a.flatten(1) @ way.flatten()).flatten()
            assert torch.allclose(made, wanted, atol=2e-6 * float(wanted.abs().max()))


def test_constraints_without_derivative_say_so(generator: torch.Generator) -> None:
    signals, q = shells(1, generator)
    points = tract.hemisphere(300)

    def f(points: Tensor) -> Tensor:
        given = {n: getattr(q, n) for n in ("directions", "fibre", "isotropic")}
        return tract.msmt(
            signals[0], tract.MSMT(**given, constraint=points, lmax=6)
        ).fod

    assert torch.equal(f(points), tract.msmt(signals[0], q).fod)
    with pytest.raises(ValueError, match="constraint"):
        jacrev(f)(points)


def test_a_constrained_problem_in_closed_form() -> None:
    # the nearest point to (1, -2) of the quadrant, in a skew metric
    p = torch.tensor([[2.0, 0.5], [0.5, 1.0]])
    q = p @ torch.tensor([1.0, -2.0])
    rows = torch.eye(2)
    found = nonnegative.hard(p, q, rows)
    assert torch.allclose(found.x, torch.stack([q[0] / p[0, 0], torch.zeros(())]))
    assert found.active.tolist() == [False, True]
    # rows that say the same twice do no harm
    twice = nonnegative.hard(p, q, torch.cat([rows, rows, 2 * rows]))
    assert torch.allclose(twice.x, found.x)
    slopes = jacfwd(lambda q: nonnegative.hard(p, q, rows).x)(q)
    assert torch.allclose(slopes, torch.tensor([[1 / 2.0, 0.0], [0.0, 0.0]]))
    steep = nonnegative.soft(p, q, rows, torch.tensor(1e9)).x
    assert torch.allclose(steep, found.x, atol=1e-8)


@needs_mrtrix
def test_msmt_is_that_of_mrtrix(tmp_path: Path, generator: torch.Generator) -> None:
    signals, q = shells(150, generator)
    b = torch.tensor([0.0] * 4 + [1e3] * 22 + [3e3] * 40)
    signals = put_image(tmp_path / "x.nii", signals, q.directions, b)
    shell = [0, 4, 26]
    np.savetxt(tmp_path / "wm.txt", q.fibre[shell].numpy())
    np.savetxt(tmp_path / "gm.txt", q.isotropic[shell, :1].numpy())
    np.savetxt(tmp_path / "csf.txt", q.isotropic[shell, 1:].numpy())
    names = [x for n in ("wm", "gm", "csf") for x in (f"{n}.txt", f"{n}.nii")]
    table = ["-grad", "x.b", "-directions", "x.dirs", "-lmax", "6,0,0"]
    dwi2fod(tmp_path, "msmt_csd", "x.nii", *names, *table)
    made = vmap(tract.msmt, in_dims=(0, None))(signals, q)
    wm = read(tmp_path / "wm.nii")
    error = (made.fod - wm).abs().amax(-1) / wm.abs().max()
    # MRtrix's solver stops early in a few voxels, at a higher cost
    assert error.median() < 1e-6
    assert (error < 1e-3).double().mean() > 0.98
    rest = torch.cat([read(tmp_path / f"{n}.nii") for n in ("gm", "csf")], -1)
    a = torch.cat([tract.convolution(q.directions, q.fibre, 6), q.isotropic], -1)
    ours = (torch.cat([made.fod, made.isotropic], -1) @ a.mT - signals).square().sum(-1)
    theirs = (torch.cat([wm, rest], -1) @ a.mT - signals).square().sum(-1)
    worse = error > 1e-3
    assert bool((ours[worse] <= theirs[worse] * (1 + 1e-6)).all())
