import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import hessian, jacfwd, jacrev, vmap

from mrsim import tract

G = torch.cat([torch.eye(3), tract.hemisphere(30)])
SCHEME = tract.Scheme(b=torch.tensor([0.0] * 3 + [1e3] * 30), directions=G)


def tensors(count: int, generator: torch.Generator) -> Tensor:
    a = torch.randn(count, 3, 3, generator=generator) * 0.02
    return a @ a.mT + 3e-4 * torch.eye(3)


def signals(d: Tensor) -> Tensor:
    return 100 * (-SCHEME.b * torch.einsum("vi,nij,vj->nv", G, d, G)).exp()


def noisy(s: Tensor, generator: torch.Generator) -> Tensor:
    noise = 2 * torch.randn(2, *s.shape, generator=generator)
    return ((s + noise[0]) ** 2 + noise[1] ** 2).sqrt()


@pytest.mark.parametrize("ordinary", [True, False])
@pytest.mark.parametrize("reweight", [0, 2])
def test_clean_signals_give_the_tensor(
    ordinary: bool, reweight: int, generator: torch.Generator
) -> None:
    d = tensors(10, generator)
    found = vmap(
        lambda s: tract.fit_tensor(s, SCHEME, ordinary=ordinary, reweight=reweight)
    )(signals(d))
    assert torch.allclose(found.D, d, atol=1e-14)
    assert torch.allclose(found.S0, torch.full((10,), 100.0))


@pytest.mark.skipif(
    shutil.which("dwi2tensor") is None, reason="needs MRtrix3 (apt-get install mrtrix3)"
)
def test_fits_are_those_of_mrtrix(tmp_path: Path, generator: torch.Generator) -> None:
    nib = pytest.importorskip("nibabel")
    s = noisy(signals(tensors(100, generator)), generator).float().double()
    s[0, 4], s[1, 5] = 0, torch.nan
    image = nib.Nifti1Image(s.float().reshape(100, 1, 1, -1).numpy(), np.eye(4))
    nib.save(image, tmp_path / "x.nii")
    np.savetxt(tmp_path / "x.b", np.c_[G.numpy(), SCHEME.b.numpy()])
    runs = {"": {}, "-ols -iter 0": {"ordinary": True, "reweight": 0}}
    for words, given in runs.items():
        command = f"dwi2tensor x.nii dt.nii -grad x.b -force -quiet {words}".split()
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
        wanted = torch.from_numpy(nib.load(tmp_path / "dt.nii").get_fdata())
        d = vmap(lambda x, g=given: tract.fit_tensor(x, SCHEME, **g))(s).D
        pairs = [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)]
        made = torch.stack([d[:, i, j] for i, j in pairs], -1)
        kept = torch.arange(100) != 1  # what a missing value weighs is not the same
        error = (made - wanted.flatten(0, 2)).abs()[kept]
        assert error.max() < 2e-7 * wanted[2:].abs().max()


def test_missing_volumes_take_no_part(generator: torch.Generator) -> None:
    s = signals(tensors(1, generator))[0]
    s[5], s[9] = torch.nan, torch.inf
    kept = s.isfinite()
    fewer = tract.Scheme(b=SCHEME.b[kept], directions=G[kept])
    one, two = tract.fit_tensor(s, SCHEME), tract.fit_tensor(s[kept], fewer)
    assert torch.allclose(one.D, two.D, atol=1e-15)


def test_derivatives_are_differences(generator: torch.Generator) -> None:
    s = noisy(signals(tensors(1, generator)), generator)[0]

    def f(s: Tensor, b: Tensor, g: Tensor) -> Tensor:
        found = tract.fit_tensor(s, tract.Scheme(b=b, directions=g))
        return torch.cat([1e3 * found.D.flatten(), found.S0[None]])

    args = (s, SCHEME.b, G)
    forward = jacfwd(f, argnums=(0, 1, 2))(*args)
    reverse = jacrev(f, argnums=(0, 1, 2))(*args)
    for k, (a, b) in enumerate(zip(forward, reverse, strict=True)):
        assert torch.allclose(a, b, atol=1e-9 * float(a.abs().max()))
        way = torch.randn(args[k].shape, generator=generator)
        h = 1e-4 * float(args[k].abs().max())

        def at(t: float, k: int = k, way: Tensor = way) -> Tensor:
            return f(*(x + t * way if j == k else x for j, x in enumerate(args)))

        wanted = (8 * (at(h) - at(-h)) - at(2 * h) + at(-2 * h)) / (12 * h)
        made = a.flatten(1) @ way.flatten()
        assert torch.allclose(made, wanted, atol=1e-6 * float(wanted.abs().max()))


def test_schemes_that_tell_nothing_give_nan() -> None:
    plane = torch.stack([G[:, 0], G[:, 1], 0 * G[:, 2]], -1)
    scheme = tract.Scheme(b=SCHEME.b, directions=plane)
    assert tract.fit_tensor(torch.ones(33), scheme).D.isnan().all()
    assert tract.fit_tensor(torch.zeros(33), SCHEME).D.isnan().all()
    with pytest.raises(ValueError, match="vmap"):
        tract.fit_tensor(torch.ones(2, 33), SCHEME)
    with pytest.raises(ValueError, match="volumes"):
        tract.fit_tensor(torch.ones(20), SCHEME)
    with pytest.raises(TypeError, match="float32"):
        tract.fit_tensor(torch.ones(33).float(), SCHEME)


def test_a_bad_voxel_spoils_no_other(generator: torch.Generator) -> None:
    s = noisy(signals(tensors(3, generator)), generator)
    bad = s.clone()
    bad[1] = torch.nan
    f = vmap(lambda s: tract.principal(tract.fit_tensor(s, SCHEME).D)[0])
    one, two = f(s), f(bad)
    assert torch.equal(one[[0, 2]], two[[0, 2]])
    assert two[1].isnan().all()


def test_invariants_in_closed_form(generator: torch.Generator) -> None:
    d = tensors(20, generator)
    values = torch.linalg.eigvalsh(d)
    mean = values.mean(-1, keepdim=True)
    spread = ((values - mean) ** 2).sum(-1) / (values**2).sum(-1)
    assert torch.allclose(tract.md(d), mean[:, 0], atol=1e-16)
    assert torch.allclose(tract.fa(d), (1.5 * spread).sqrt(), atol=1e-13)
    ball = 1e-3 * torch.eye(3)
    assert tract.fa(ball) == 0
    assert bool((jacrev(tract.fa)(ball) == 0).all())
    assert tract.fa(ball * torch.nan).isnan()


def test_principal_direction(generator: torch.Generator) -> None:
    d = tensors(30, generator)
    made, gap = tract.principal(d)
    values, vectors = torch.linalg.eigh(d)
    assert torch.allclose((made * vectors[..., -1]).sum(-1).abs(), torch.ones(30))
    size = values.norm(dim=-1)
    assert torch.allclose(gap, (values[:, 2] - values[:, 1]) / size, atol=1e-12)
    # dv = Σ vₖ (vₖ·dD v) / (λ₁ − λₖ)
    way = torch.randn(3, 3, generator=generator)
    way = way + way.mT
    for x, lam, v in zip(d, values, vectors, strict=True):
        main = tract.principal(x)[0]
        pull = v[:, :2].mT @ way @ main / (lam[2] - lam[:2])
        made = torch.func.jvp(lambda y: tract.principal(y)[0], (x,), (way,))[1]
        wanted = v[:, :2] @ pull
        assert torch.allclose(made, wanted, atol=1e-9 * float(wanted.abs().max()))
        back = jacrev(lambda y: tract.principal(y)[0])(x).flatten(1) @ way.flatten()
        assert torch.allclose(back, wanted, atol=1e-9 * float(wanted.abs().max()))


def test_symmetric_tensors_have_derivatives_and_flat_ones_say_so() -> None:
    stick = torch.diag(torch.tensor([3e-4, 1.7e-3, 3e-4]))
    made = jacfwd(lambda d: tract.principal(d)[0])(stick)
    assert torch.allclose(made[0, 0, 1] + made[0, 1, 0], torch.tensor(1 / 1.4e-3))
    assert hessian(lambda d: tract.principal(d)[0].sum())(stick).isfinite().all()
    pancake = torch.diag(torch.tensor([1e-3, 1e-3, 3e-4]))
    direction, gap = tract.principal(pancake)
    assert gap == 0
    assert torch.allclose(direction.norm(), torch.ones(()))
    for jac in (jacfwd, jacrev):
        assert not jac(lambda d: tract.principal(d)[0])(pancake).isfinite().all()


def test_a_voxel_without_a_positive_signal_is_nan() -> None:
    b = torch.cat([torch.zeros(1), torch.full((29,), 1000.0)])
    scheme = tract.Scheme(b=b, directions=tract.hemisphere(30))
    signal = (-b * 1e-3).exp()
    for bad in (-signal, 0 * signal, torch.nan * signal):
        made = tract.fit_tensor(bad, scheme)
        assert made.D.isnan().all()
        assert made.S0.isnan()
    both = torch.func.vmap(tract.fit_tensor, in_dims=(0, None))
    pair = both(torch.stack([signal, -signal]), scheme).D
    torch.testing.assert_close(pair[0], tract.fit_tensor(signal, scheme).D)
