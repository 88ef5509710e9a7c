"""Encodings: b values, moments, padding, pieces and directions."""

import math

import pytest
import torch
from torch import Tensor
from torch.func import grad, jacfwd, jacrev, vmap
from torrey.encodings import ENCODINGS, TIMES, U

from mrsim import torrey
from mrsim.torrey.encoding_profile import moments, pieces, timeline, value
from mrsim.units import GAMMA, m, mT


@pytest.fixture(params=ENCODINGS, name="encoding")
def _encoding(request: pytest.FixtureRequest) -> object:
    return ENCODINGS[request.param]


def by_quadrature(encoding: object, count: int = 2000) -> tuple[Tensor, Tensor]:
    """Return F(TE) and B by the midpoint rule on the played waveform."""
    made = torrey.profile(encoding)
    F, B = torch.zeros(3), torch.zeros(3, 3)
    for step in made.play:
        h = made.duration[step.segment] / count
        for i in range(count):
            s = (i + 0.5) / count
            g = step.sign * value(made, step.segment, 1 - s if step.reverse else s)
            middle = F + h / 2 * g
            B = B + h * middle[:, None] * middle
            F = F + h * g
    return F, B


def test_moments_are_the_integrals_of_the_waveform(encoding: object) -> None:
    F, B = by_quadrature(encoding, 400)
    size = (torrey.b_value(encoding) / torrey.profile(encoding).duration.sum()).sqrt()
    assert (torrey.net_moment(encoding) - F).abs().max() < 1e-5 * size
    assert (torrey.b_tensor(encoding) - B).abs().max() < 1e-5 * B.diagonal().sum()


def test_b_values_are_those_of_the_textbooks() -> None:
    q, d, D, r = 3e4, TIMES["delta"], TIMES["Delta"], 0.002
    wanted = {
        "pgse": q**2 * d**2 * (D - d / 3),
        "pgse-late": q**2 * d**2 * (D - d / 3),
        "double": 2 * q**2 * d**2 * (D - d / 3),
        "double-crossed": 2 * q**2 * d**2 * (D - d / 3),
        "cos": q**2 * d**3 / (4 * math.pi**2 * 2**2),
        "sin": 3 * q**2 * d**3 / (4 * math.pi**2),
        "trapezoid": q**2 * (d**2 * (D - d / 3) + r**3 / 30 - d * r**2 / 6),
    }
    for name, b in wanted.items():
        assert float(torrey.b_value(ENCODINGS[name])) == pytest.approx(b, rel=1e-13)


def test_pieces_keep_time_and_first_moment(encoding: object) -> None:
    made = torrey.profile(encoding)
    duration, vector = timeline(pieces(made, 3))
    whole = sum(made.duration[s.segment] for s in made.play)
    assert torch.allclose(duration.sum(), whole, rtol=1e-14)
    F = (duration[:, None] * vector).sum(0)
    size = (duration[:, None] * vector.abs()).sum()
    # two Gauss points, exact for ramps
    assert (F - moments(made)[0]).abs().max() < 1e-6 * size


def test_the_echo_time_holds_all_waits() -> None:
    late = ENCODINGS["pgse-late"]
    duration, vector = timeline(pieces(torrey.profile(late)))
    assert torch.allclose(duration, torch.tensor([0.003, 0.008, 0.013, 0.008, 0.008]))
    assert torch.equal(vector[:, 0].sign(), torch.tensor([0.0, 1, 0, -1, 0]))
    assert torch.equal(torrey.b_tensor(late), torrey.b_tensor(ENCODINGS["pgse"]))


def test_derivatives_of_b(encoding: object) -> None:
    name = "vectors" if isinstance(encoding, torrey.Waveform) else "q"
    slope = grad(torrey.b_value)(encoding)
    x = getattr(encoding, name)
    # b is quadratic in the gradients
    euler = (getattr(slope, name) * x).sum()
    assert torch.allclose(euler, 2 * torrey.b_value(encoding), rtol=1e-12)
    leaves = {n: v for n, v in vars(slope).items() if isinstance(v, Tensor)}
    assert all(v.isfinite().all() for v in leaves.values())
    f, r = (d(torrey.b_value)(encoding) for d in (jacfwd, jacrev))
    assert torch.allclose(getattr(f, name), getattr(r, name), rtol=1e-12)


def test_strength_follows_b_and_gradient() -> None:
    pair = ENCODINGS["pgse"]
    assert torch.allclose(
        torrey.b_value(torrey.with_b(pair, 1234.0)), torch.tensor(1234.0)
    )
    wave = torrey.with_b(ENCODINGS["waveform"], 500.0)
    assert torch.allclose(torrey.b_value(wave), torch.tensor(500.0))
    assert float(torrey.with_G(pair, 80 * mT / m).q) == pytest.approx(
        GAMMA * 80e-6, rel=1e-15
    )
    small = torrey.PGSE(q=1.0, direction=[0.0, 0, 1], delta=0.01, Delta=0.02)
    assert torrey.with_b(small, 900.0).q.dtype == torch.float64


def test_shells_are_every_combination() -> None:
    u = torrey.directions(7)
    made = torrey.shells(ENCODINGS["double"], [500.0, 2000.0], u)
    b = vmap(torrey.b_value)(made)
    assert torch.allclose(b, torch.tensor([500.0, 2000.0]).repeat_interleave(7))
    assert torch.allclose(made.direction, u.repeat(2, 1))
    with pytest.raises(TypeError, match="Waveform has no direction"):
        torrey.shells(ENCODINGS["waveform"], [500.0], u)


@pytest.mark.parametrize(("count", "angle"), [(3, 90.0), (6, 63.43), (30, 25.0)])
def test_directions_repel_each_other(count: int, angle: float) -> None:
    u = torrey.directions(count)
    assert torch.allclose(u.norm(dim=-1), torch.ones(count))
    assert (u[:, 2] >= 0).all()
    cosine = ((u @ u.T).abs() - 2 * torch.eye(count)).max().clamp(0, 1)
    assert float(cosine.acos()) * 180 / math.pi > angle - 0.1
    assert torch.equal(u, torrey.directions(count))
    with pytest.raises(ValueError, match="at least 1"):
        torrey.directions(0)


def test_wrong_encodings_are_refused() -> None:
    pair = ENCODINGS["pgse"]
    many = torrey.PGSE(q=[1.0, 2.0], direction=U, **TIMES)
    with pytest.raises(ValueError, match=r"q must have shape \(\).*vmap"):
        torrey.profile(many)
    with pytest.raises(TypeError, match="float32"):
        torrey.profile(torrey.PGSE(q=1.0, direction=U, delta=U[0].float(), Delta=0.2))
    with pytest.raises(TypeError, match="an encoding must be PGSE"):
        torrey.profile(U)
    with pytest.raises(ValueError, match="at least two samples"):
        torrey.profile(torrey.Waveform(times=[0.0], vectors=[[0.0, 0, 0]]))
    with pytest.raises(ValueError, match="longer than Delta"):
        torrey.profile(torrey.PGSE(q=1.0, direction=U, delta=0.03, Delta=0.02))
    with pytest.raises(ValueError, match="TE"):
        torrey.profile(torrey.PGSE(q=1.0, direction=U, **TIMES, TE=0.02))
    assert torrey.profile(pair).kinds == ("flat", "rest")
