import math

import pytest
import torch
from torch.func import grad, jacfwd, vmap

from mrsim import tract

B = torch.tensor(3000.0)
AXIAL, RADIAL = torch.tensor(1.7e-3), torch.tensor(3e-4)


def signal(u: torch.Tensor, g: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (-b * (RADIAL + (AXIAL - RADIAL) * (g @ u) ** 2)).exp()


def test_convolved_delta_is_the_tensors_signal(generator: torch.Generator) -> None:
    u = torch.nn.functional.normalize(torch.randn(3, generator=generator), dim=0)
    g = tract.hemisphere(50)
    errors = []
    for lmax in (4, 8, 12, 20):
        response = tract.tensor_response(B, AXIAL, RADIAL, lmax)
        s = tract.convolve(tract.harmonics(u, lmax), response)
        made = tract.harmonics(g, lmax) @ s
        errors.append(float((made - signal(u, g, B)).abs().max()))
        matrix = tract.convolution(g, response, lmax)
        assert torch.allclose(matrix @ tract.harmonics(u, lmax), made, atol=1e-14)
    assert errors[-1] < 1e-8
    assert errors == sorted(errors, reverse=True)


def test_isotropic_response() -> None:
    ball = tract.tensor_response(B, AXIAL, AXIAL, 6)
    wanted = math.sqrt(4 * math.pi) * (-B * AXIAL).exp()
    assert torch.allclose(ball[0], wanted, atol=1e-14)
    assert ball[1:].abs().max() < 1e-14
    double = tract.tensor_response(B, AXIAL, RADIAL, 6, S0=torch.tensor(2.0))
    assert torch.allclose(double, 2 * tract.tensor_response(B, AXIAL, RADIAL, 6))


def test_response_of_a_stick_in_closed_form() -> None:
    # r(0) = √π ∫ exp(−b D z²) dz = √π √(π / bD) erf(√bD)
    x = (B * AXIAL).sqrt()
    wanted = math.sqrt(math.pi) * math.sqrt(math.pi) / x * torch.erf(x)
    made = tract.tensor_response(B, AXIAL, torch.zeros(()), 2)[0]
    assert torch.allclose(made, wanted, atol=1e-12)


def test_responses_have_derivatives() -> None:
    def f(b: torch.Tensor) -> torch.Tensor:
        return tract.tensor_response(b, AXIAL, RADIAL, 4)

    step = 1.0
    near, far = (f(B + s) - f(B - s) for s in (step, 2 * step))
    assert torch.allclose(jacfwd(f)(B), (8 * near - far) / (12 * step), rtol=1e-8)
    many = tract.tensor_response(torch.tensor([0.0, 1e3, 3e3]), AXIAL, RADIAL, 4)
    assert torch.allclose(vmap(f)(torch.tensor([0.0, 1e3, 3e3])), many)


def test_shells_and_short_responses() -> None:
    table = torch.tensor([[3.0, -2.0], [1.0, 0.5]])
    shell = torch.tensor([0, 1, 1])
    g = tract.hemisphere(3)
    rows = tract.convolution(g, table[shell], 4)
    assert torch.allclose(rows[2], tract.convolution(g, table[1], 4)[2])
    assert rows[:, 6:].abs().max() == 0  # degrees that the response lacks
    with pytest.raises(ValueError, match="one for each volume"):
        tract.convolution(g, table, 4)
    means, which = tract.shells(torch.tensor([0.0, 990.0, 1010.0, 5.0]))
    assert means.tolist() == [2.5, 1000.0]
    assert which.tolist() == [0, 1, 1, 0]
    scheme = tract.Scheme(b=[0.0, 700.0], directions=[[0.0, 0.0, 1.0]] * 2)
    assert tract.weighted(scheme).tolist() == [1]
    with pytest.raises(ValueError, match="s/mm"):
        tract.weighted(tract.Scheme(b=[0.7], directions=[[0.0, 0.0, 1.0]]))


def test_fit_of_a_known_fibre(generator: torch.Generator) -> None:
    u = torch.nn.functional.normalize(torch.randn(5, 3, generator=generator), dim=-1)
    g = tract.hemisphere(60)
    signals = vmap(signal, in_dims=(0, None, None))(u, g, B)
    exact = tract.tensor_response(B, AXIAL, RADIAL, 14)
    assert torch.allclose(tract.fit_response(signals, g, u, 14), exact, atol=2e-5)
    slope = grad(lambda s: tract.fit_response(s, g, u, 8)[0])(signals)
    assert torch.allclose(
        (slope * signals).sum(), tract.fit_response(signals, g, u, 8)[0]
    )


class Phantom:
    """Voxels: 60 single fibres, 60 crossings, 60 grey, 60 fluid; b = 0, 1000, 3000."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        parts = [(4, 0.0), (30, 1000.0), (45, 3000.0)]
        b = torch.cat([torch.full((n,), x) for n, x in parts])
        g = torch.cat([tract.hemisphere(n) for n, _ in parts])
        self.scheme = tract.Scheme(b=b, directions=g)
        u = torch.randn(240, 2, 3, generator=generator)
        u = u / u.norm(dim=-1, keepdim=True)
        fibres = vmap(vmap(signal, in_dims=(0, None, None)), in_dims=(0, None, None))
        s = fibres(u, g, b)
        share = torch.zeros(240, 4)
        for k in range(4):
            share[60 * k : 60 * k + 60, k] = 1
        share[60:120, 0] = share[60:120, 1] = 0.5
        share = share + 0.03 * torch.rand(240, 4, generator=generator)
        share = share / share.sum(-1, keepdim=True)
        balls = torch.stack([(-b * 8e-4).exp(), (-b * 3e-3).exp()])
        clean = share[:, :1] * s[:, 0] + share[:, 1:2] * s[:, 1] + share[:, 2:] @ balls
        noise = torch.randn(2, *clean.shape, generator=generator) / 60
        self.signals = 100 * ((clean + noise[0]) ** 2 + noise[1] ** 2).sqrt()


def test_single_fibres_are_found() -> None:
    x = Phantom()
    found = tract.fibre_response(x.signals, x.scheme, number=40)
    assert (found.voxels < 60).double().mean() > 0.95
    wanted = 100 * tract.tensor_response(B, AXIAL, RADIAL, 8)
    assert torch.allclose(found.response[:4], wanted[:4], atol=4.0)
    assert found.response[1] < -38

    def first(scale: torch.Tensor) -> torch.Tensor:
        return tract.fibre_response(scale * x.signals, x.scheme, number=40).response

    one = torch.ones(())
    assert torch.allclose(jacfwd(first)(one), first(one), rtol=1e-9)


def test_three_tissues_are_found() -> None:
    x = Phantom()
    found = tract.tissue_responses(x.signals, x.scheme, share=(0.2, 0.2, 0.3))
    white, grey, fluid = found.voxels
    assert (white < 60).double().mean() > 0.9
    assert bool(((grey >= 120) & (grey < 180)).all())
    assert bool((fluid >= 180).all())
    scale = 100 * math.sqrt(4 * math.pi)
    assert torch.allclose(found.gm / scale, (-found.b * 8e-4).exp(), atol=0.02)
    assert torch.allclose(found.csf / scale, (-found.b * 3e-3).exp(), atol=0.03)
    for row, b in zip(found.wm, found.b, strict=True):
        wanted = 100 * tract.tensor_response(b, AXIAL, RADIAL, 8)
        assert torch.allclose(row[:3], wanted[:3], atol=4.0)
    assert found.shell.tolist() == [0] * 4 + [1] * 30 + [2] * 45


def test_tissues_that_are_missing_are_told() -> None:
    x = Phantom()
    with pytest.raises(ValueError, match="white matter"):
        tract.tissue_responses(x.signals[180:], x.scheme)
    inner = tract.Scheme(b=x.scheme.b[4:], directions=x.scheme.directions[4:])
    with pytest.raises(ValueError, match="b = 0"):
        tract.tissue_responses(x.signals[:, 4:], inner)
    with pytest.raises(ValueError, match="mask"):
        tract.fibre_response(x.signals[0], x.scheme)


def test_a_response_that_data_do_not_tell_is_refused() -> None:
    g, fibre = tract.hemisphere(30), torch.tensor([[0.0, 0.6, 0.8]])
    data = signal(fibre[0], g, B)[None]
    for some, axes, lmax in ((3, fibre, 8), (1, fibre, 2), (30, fibre[:0], 0)):
        with pytest.raises(ValueError, match="smaller lmax"):
            tract.fit_response(data[: len(axes), :some], g[:some], axes, lmax)
    scheme = tract.Scheme(b=B.expand(30), directions=g)
    with pytest.raises(ValueError, match="0 voxels"):
        tract.fibre_response(data.expand(4, 30), scheme, lmax=4, number=0)
