"""Images from maps: transforms, echo order, coils, off-resonance, derivatives."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, jacfwd, jacrev, vmap

import mrsim
from mrsim import Tissue, epg, image
from mrsim.tree import replace
from mrsim.units import deg, ms

SIZE = 12


def train(echoes: int = 4) -> epg.FSE:
    return epg.FSE(flip=[150 * deg] * echoes, esp=10 * ms)


def phantom(size: int = SIZE) -> Tissue:
    x = torch.arange(size) - size // 2
    inner = (x[:, None] ** 2 + x**2 < (size / 4) ** 2).double()
    return Tissue(T1=1.0, T2=0.05 + 0.1 * inner, M0=1.0 - 0.5 * inner)


def waves(size: int) -> Tensor:
    n = torch.arange(size) - size // 2
    return torch.polar(torch.ones(size, size), -2 * math.pi * n[:, None] * n / size)


def slow(signal: Tensor, readout: image.Readout, df: Tensor | None = None) -> Tensor:
    """Sum over all voxels, sample by sample."""
    size, lines = signal.shape[:2]
    x = torch.arange(size) - size // 2
    rows = []
    for k in range(size):
        turn = torch.zeros(size, lines)
        if df is not None and readout.dwell is not None:
            turn = 2 * math.pi * df * readout.dwell * (k - size // 2)
        line = []
        for j, echo in enumerate(readout.order):
            angle = (
                -2
                * math.pi
                * (
                    x[:, None] * (k - size // 2) / size
                    + (torch.arange(lines) - lines // 2) * (j - lines // 2) / lines
                )
            )
            wave = torch.polar(torch.ones(size, lines), angle + turn)
            line.append((signal[..., echo] * wave).sum())
        rows.append(torch.stack(line))
    return torch.stack(rows)


def test_one_echo_is_the_fourier_transform_of_the_map() -> None:
    maps = phantom()
    signal = image.echoes(epg.fse, maps, train(1))
    readout = image.Readout(order=torch.zeros(SIZE, dtype=torch.long))
    k = image.kspace(signal, readout)
    full = waves(SIZE) @ signal[..., 0] @ waves(SIZE)
    torch.testing.assert_close(k, full)
    back = image.reconstruct(k, readout)
    torch.testing.assert_close(back, signal[..., 0])
    parts = image.echoes(epg.fse, maps, train(1), memory=10_000)
    torch.testing.assert_close(parts, signal)
    one = vmap(epg.fse, (0, None))(
        Tissue(T1=torch.ones(SIZE), T2=maps.T2[5], M0=mrsim.tree.get(maps, "M0")[5]),
        train(1),
    )
    torch.testing.assert_close(signal[5], one)


@pytest.mark.parametrize("order", [image.linear, image.centric])
@pytest.mark.parametrize("bent", [False, True], ids=["straight", "off-resonant"])
def test_every_line_comes_from_its_echo(
    order: Any, bent: bool, generator: torch.Generator
) -> None:
    signal = torch.randn(8, 6, 3, generator=generator) + 0j
    readout = image.Readout(order=order(6, 3), dwell=2e-5 if bent else None)
    df = 300 * torch.randn(8, 6, generator=generator) if bent else None
    made = image.kspace(signal, readout, df)
    torch.testing.assert_close(made, slow(signal, readout, df))
    k = image.kspace(signal, image.Readout(order=order(6, 3)))
    assert ((made - k).abs().max() > 0.1) == bent


def test_off_resonance_shifts_along_the_readout() -> None:
    point = torch.zeros(8, 8, 1).index_put(
        (torch.tensor([3]), torch.tensor([5])), torch.ones(())
    )
    readout = image.Readout(order=image.linear(8, 1), dwell=1e-4)
    df = torch.full((8, 8), 1 / (8 * 1e-4))  # one pixel of bandwidth
    moved = image.reconstruct(image.kspace(point + 0j, readout, df), readout)
    assert moved.abs()[..., :].argmax() == 2 * 8 + 5
    torch.testing.assert_close(moved.abs()[2, 5], torch.ones(()))


def test_orders_fill_k_space_evenly() -> None:
    for order in (image.linear, image.centric):
        for lines, echoes in ((16, 4), (15, 4), (9, 3)):
            counts = order(lines, echoes).bincount(minlength=echoes)
            assert len(counts) == echoes
            assert counts.max() - counts.min() <= 1
    assert image.centric(9, 3)[9 // 2] == 0
    assert image.linear(16, 4).tolist() == sorted(image.linear(16, 4).tolist())


def test_coils_and_mask() -> None:
    signal = image.echoes(epg.fse, phantom(), train())
    angle = torch.linspace(0, 2, SIZE)
    coils = torch.stack(
        [
            torch.polar((1 + angle[:, None]) * torch.ones(SIZE), 0 * angle + angle),
            torch.polar((3 - angle[:, None]) * torch.ones(SIZE), angle * angle + 0),
        ]
    )
    order = torch.zeros(SIZE, dtype=torch.long)
    mask = (torch.arange(SIZE) % 2 == 0).double()
    several = image.Readout(order=order, coils=coils)
    k = image.kspace(signal, several)
    assert k.shape == (2, SIZE, SIZE)
    torch.testing.assert_close(image.reconstruct(k, several), signal[..., 0])
    half = image.Readout(order=order, coils=coils, mask=mask)
    some = image.kspace(signal, half)
    assert (some[..., 1::2] == 0).all()
    torch.testing.assert_close(some[..., ::2], k[..., ::2])


def test_point_spread_is_the_image_of_a_point() -> None:
    weights = epg.fse(Tissue(T1=1.0, T2=0.04), train(4))
    for order in (image.linear(16, 4), image.centric(16, 4)):
        point = torch.zeros(16, 16, 4, dtype=torch.complex128)
        point = point.index_put((torch.tensor([8]), torch.tensor([8])), weights)
        readout = image.Readout(order=order)
        made = image.reconstruct(image.kspace(point, readout), readout)[8]
        torch.testing.assert_close(image.point_spread(weights, order, zoom=1), made)
        fine = image.point_spread(weights, order, zoom=4)
        torch.testing.assert_close(fine[::4], made)
    flat = image.point_spread(torch.ones(4), image.linear(16, 4), zoom=8)
    assert (flat.abs() >= 0.5).sum() / 8 == pytest.approx(1.2, abs=0.15)  # pixels


def test_derivatives_with_respect_to_maps_train_and_fields() -> None:
    maps, size = phantom(6), 6
    B1 = torch.linspace(0.9, 1.1, 36).reshape(6, 6)
    df = torch.linspace(-40, 40, 36).reshape(6, 6)
    coils = torch.polar(torch.ones(2, 6, 6), torch.linspace(0, 3, 72).reshape(2, 6, 6))

    def loss(T2: Tensor, flip: Tensor, B1: Tensor, df: Tensor, phase: Tensor) -> Tensor:
        tissue = mrsim.replace(maps, T2=T2, B1=B1)
        turned = coils * torch.complex(phase.cos(), phase.sin())
        readout = image.Readout(
            order=image.linear(size, 3), coils=turned, dwell=torch.tensor(1e-4)
        )
        seq = epg.FSE(flip=flip, esp=torch.tensor(0.01))
        made = image.kspace(image.echoes(epg.fse, tissue, seq), readout, df)
        goal = torch.linspace(0, 1, 36).reshape(6, 6)
        wave = image.reconstruct(made[..., :] * (1 + goal), readout)
        return (wave.real * goal).sum() + wave.imag.square().sum()

    given = (maps.T2, torch.tensor([2.0, 2.5, 2.2]), B1, df, torch.tensor(0.3))
    slots = (0, 1, 2, 3, 4)
    slopes = grad(loss, argnums=slots)(*given)
    for k, (x, slope) in enumerate(zip(given, slopes, strict=True)):
        one = lambda v, k=k: loss(*given[:k], v, *given[k + 1 :])  # noqa: E731
        torch.testing.assert_close(jacfwd(one)(x), slope, rtol=1e-9, atol=1e-13)
        step = torch.zeros_like(x).reshape(-1)
        step[0] = 1e-5 * max(1.0, float(x.abs().max()))
        step = step.reshape(x.shape)
        numeric = (one(x + step) - one(x - step)) / (2 * step.reshape(-1)[0])
        torch.testing.assert_close(slope.reshape(-1)[0], numeric, rtol=1e-5, atol=1e-8)
        assert slope.abs().max() > 0
    both = vmap(jacrev(lambda T2: loss(T2, *given[1:])))(
        torch.stack([maps.T2, 1.1 * maps.T2])
    )
    torch.testing.assert_close(both[0], slopes[0])


def test_map_and_train_are_recovered_from_an_image() -> None:
    """Gradient descent finds what made an image, the seeds' first aim."""
    size = 6
    maps = phantom(size)
    truth = epg.FSE(flip=[150 * deg, 120 * deg, 100 * deg, 90 * deg], esp=10 * ms)
    readouts = [image.Readout(order=o(size, 4)) for o in (image.linear, image.centric)]

    def pictures(T2: Tensor, flip: Tensor) -> Tensor:
        seq = mrsim.replace(truth, flip=flip)
        signal = image.echoes(epg.fse, mrsim.replace(maps, T2=T2), seq)
        return torch.stack(
            [image.reconstruct(image.kspace(signal, r), r) for r in readouts]
        )

    target = pictures(maps.T2, truth.flip)

    def misfit(u: tuple[Tensor, Tensor]) -> Tensor:
        away = pictures(u[0].exp(), u[1]) - target
        return (away.real.square() + away.imag.square()).sum()

    logs = torch.full((size, size), 0.08).log().requires_grad_()
    flip = torch.full((4,), 110 * deg).requires_grad_()
    solver = torch.optim.LBFGS(
        [logs, flip], max_iter=100, history_size=40, line_search_fn="strong_wolfe",
        tolerance_grad=1e-12, tolerance_change=1e-16,
    )  # fmt: skip

    def closure() -> Tensor:
        value, slope = torch.func.grad_and_value(misfit)(
            (logs.detach(), flip.detach())
        )[::-1]
        logs.grad, flip.grad = slope
        return value

    first = float(closure())
    solver.step(closure)
    assert float(closure()) < 1e-7 * first
    assert (logs.exp() / maps.T2 - 1).abs().max() < 0.02
    assert (flip - truth.flip).abs().max() < 1 * deg


def test_misuse_is_explained() -> None:
    readout = image.Readout(order=image.linear(6, 3))
    with pytest.raises(ValueError, match=r"\(x, y, echo\)"):
        image.kspace(torch.ones(6, 5, 3), readout)
    with pytest.raises(ValueError, match="integers"):
        image.kspace(torch.ones(6, 6, 3), image.Readout(order=[0.0] * 6))
    with pytest.raises(ValueError, match="dwell"):
        image.kspace(torch.ones(6, 6, 3), readout, torch.ones(6, 6))
    bad = image.Readout(order=image.linear(6, 3), coils=torch.ones(2, 5, 6) + 0j)
    with pytest.raises(ValueError, match="coils must end"):
        image.kspace(torch.ones(6, 6, 3), bad)
    fields = {"coils": torch.ones(6, 6) + 0j, "mask": torch.ones(2, 6, 6)}
    for name, value in fields.items():
        with pytest.raises(ValueError, match=f"{name} must end"):
            image.kspace(torch.ones(6, 6, 3), replace(readout, **{name: value}))
    for order in (torch.arange(6), -torch.ones(6, dtype=torch.int64)):
        with pytest.raises(ValueError, match="from 0 to 2"):
            image.kspace(torch.ones(6, 6, 3), image.Readout(order=order))
    with pytest.raises(ValueError, match="samples must have"):
        image.reconstruct(torch.ones(5, 6), bad)
    with pytest.raises(ValueError, match="map"):
        image.echoes(epg.fse, Tissue(T1=1.0, T2=0.1), train())
    with pytest.raises(ValueError, match="such maps or numbers"):
        image.echoes(
            epg.fse, Tissue(T1=1.0, T2=torch.ones(3, 4), B1=torch.ones(4)), train()
        )


def test_order_may_be_of_any_integers() -> None:
    signal = torch.rand(6, 6, 3, generator=torch.Generator().manual_seed(0))
    order = image.centric(6, 3)
    made = image.kspace(signal, image.Readout(order=order.to(torch.int32)))
    assert torch.equal(made, image.kspace(signal, image.Readout(order=order)))
