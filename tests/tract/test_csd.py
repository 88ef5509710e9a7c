import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, vmap

from mrsim import tract
from mrsim.tract import nonnegative

B = torch.tensor(3000.0)
AXIAL, RADIAL = torch.tensor(1.7e-3), torch.tensor(3e-4)
HIGH = {"axial": AXIAL, "radial": RADIAL}


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def noisy(clean: Tensor, snr: float, generator: torch.Generator) -> Tensor:
    noise = torch.randn(2, *clean.shape, generator=generator) / snr
    return ((clean + noise[0]) ** 2 + noise[1] ** 2).sqrt()


def shell(count: int, generator: torch.Generator) -> tuple[Tensor, tract.CSD]:
    """Return signals (voxel, 60) of two fibres, and how to deconvolve them."""
    g = tract.hemisphere(60)
    u = unit(torch.randn(count, 2, 3, generator=generator))
    cosine = torch.einsum("vfk,gk->vfg", u, g)
    signal = (-B * (RADIAL + (AXIAL - RADIAL) * cosine**2)).exp().mean(1)
    response = tract.tensor_response(B, **HIGH)
    return noisy(signal, 30, generator), tract.CSD(directions=g, response=response)


def shells(count: int, generator: torch.Generator) -> tuple[Tensor, tract.MSMT]:
    """Return signals (voxel, 66) of fibres, grey matter and fluid."""
    b = torch.cat([torch.full((n,), x) for n, x in ((4, 0.0), (22, 1e3), (40, 3e3))])
    g = torch.cat([tract.hemisphere(n) for n in (4, 22, 40)])
    u = unit(torch.randn(count, 3, generator=generator))
    fibre = (-b * (RADIAL + (AXIAL - RADIAL) * (u @ g.mT) ** 2)).exp()
    balls = torch.stack([(-b * 8e-4).exp(), (-b * 3e-3).exp()])
    share = torch.rand(count, 3, generator=generator)
    share = share / share.sum(-1, keepdim=True)
    clean = share[:, :1] * fibre + share[:, 1:] @ balls
    isotropic = (4 * torch.pi) ** 0.5 * balls.mT
    responses = tract.tensor_response(b, **HIGH, lmax=6)
    q = tract.MSMT(directions=g, fibre=responses, isotropic=isotropic, lmax=6)
    return noisy(clean, 30, generator), q


def slope(f: Any, x: Tensor, way: Tensor, step: float) -> Tensor:
    near, far = (f(x + s * way) - f(x - s * way) for s in (step, 2 * step))
    return (8 * near - far) / (12 * step)


# ----------------------------------------------------------------- one shell, soft


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


# ------------------------------------------------------------- many shells, hard


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


# ------------------------------------------------------------------------ MRtrix


def dwi2fod(folder: Path, *words: str) -> None:
    subprocess.run(
        ["dwi2fod", *words, "-nthreads", "0", "-quiet"],
        cwd=folder,
        check=True,
        capture_output=True,
    )


def put_image(path: Path, signals: Tensor, g: Tensor, b: Tensor) -> Tensor:
    nib = pytest.importorskip("nibabel")
    values = signals.float().reshape(-1, 1, 1, signals.shape[-1])
    nib.save(nib.Nifti1Image(values.numpy(), np.eye(4)), path)
    np.savetxt(path.with_suffix(".b"), np.c_[g.numpy(), b.numpy()])
    d = tract.hemisphere(300)
    table = np.c_[torch.atan2(d[:, 1], d[:, 0]).numpy(), d[:, 2].arccos().numpy()]
    np.savetxt(path.with_suffix(".dirs"), table, fmt="%.17g")
    return signals.float().double()


def read(path: Path) -> Tensor:
    nib = pytest.importorskip("nibabel")
    return torch.from_numpy(nib.load(path).get_fdata()).flatten(0, 2)


needs_mrtrix = pytest.mark.skipif(
    shutil.which("dwi2fod") is None, reason="needs MRtrix3 (apt-get install mrtrix3)"
)


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
