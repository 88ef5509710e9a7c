"""IVIM models: limits that tie them together, independent physics, clear errors."""

import math

import pytest
import torch
from hypothesis import given, strategies as st
from strategies import log_uniform
from torch import Tensor
from torch.func import hessian, jacfwd, vmap

import mrsim
from mrsim import ivim
from mrsim.ivim.flow import DB, memory
from mrsim.units import ms, um

B = [0.0, 10.0, 40.0, 200.0, 800.0]
PLAIN = ivim.Acquisition(b=B)
LOBES = ivim.Acquisition(b=B, delta=12 * ms, Delta=30 * ms)


def pairs(k: float) -> ivim.Acquisition:
    return mrsim.replace(LOBES, T=torch.tensor(0.095), k=torch.tensor(k))


def equal(a: Tensor, b: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


# ------------------------------------------------------------------------- limits


@given(f=st.floats(0, 1), Dp=log_uniform(0.005, 0.5), D=log_uniform(1e-4, 3e-3))
def test_models_agree_where_they_meet(f: float, Dp: float, D: float) -> None:
    wanted = ivim.signal(ivim.Biexp(f=f, Dp=Dp, D=D), PLAIN)
    first = B[0] + torch.zeros(3)
    assert wanted[0] == pytest.approx(1)
    diffusive = ivim.Diffusive(f=f, Dstar=Dp, D=D, Db=0.0)
    equal(ivim.signal(diffusive, PLAIN), wanted)
    three = ivim.Triexp(f1=f / 3, f2=2 * f / 3, D1=Dp, D2=Dp, D0=D)
    equal(ivim.signal(three, PLAIN), wanted)
    along = torch.nn.functional.normalize(torch.tensor([[1.0, 2.0, -3.0]])).expand(5, 3)
    tensor = torch.cat([D + first, first])
    isotropic = ivim.DTI(f=f, Dp=torch.tensor(Dp), D=tensor)
    equal(ivim.signal(isotropic, mrsim.replace(PLAIN, bvec=along)), wanted)
    blood = mrsim.replace(isotropic, Dp=torch.cat([Dp + first, first]))
    equal(ivim.signal(blood, mrsim.replace(PLAIN, bvec=along)), wanted)


def test_simplified_is_blood_that_vanishes() -> None:
    fast = ivim.Biexp(f=0.2, Dp=1e3, D=1e-3)
    simple = ivim.Simplified(f=0.2, D=1e-3)
    equal(ivim.signal(simple, PLAIN), ivim.signal(fast, PLAIN))


def test_weighting_by_relaxation_scales_each_compartment() -> None:
    q = mrsim.replace(PLAIN, TE=torch.tensor(0.06), TR=torch.tensor(2.0))
    p = ivim.Biexp(S0=3.0, f=0.2, Dp=0.05, D=1e-3, T1b=1.6, T1t=0.9, T2b=0.2, T2t=0.05)
    blood = 0.2 * math.exp(-0.06 / 0.2) * (1 - math.exp(-2 / 1.6))
    tissue = 0.8 * math.exp(-0.06 / 0.05) * (1 - math.exp(-2 / 0.9))
    wanted = 3 * (blood * torch.exp(-q.b * 0.05) + tissue * torch.exp(-q.b * 1e-3))
    equal(ivim.signal(p, q), wanted)


@pytest.mark.parametrize("q", [LOBES, pairs(1.0), pairs(-1.0)])
def test_short_memory_is_diffusive(q: ivim.Acquisition) -> None:
    tau, v = torch.tensor(1e-7), 3.0
    equal(memory(tau, q), tau, 1e-12)
    made = ivim.signal(ivim.Intermediate(f=0.3, v=v, tau=tau, D=1e-3), q)
    dstar = ivim.Diffusive(f=0.3, Dstar=v**2 * tau / 3, D=1e-3)
    equal(made, ivim.signal(dstar, q), 1e-8)


@pytest.mark.parametrize("k", [None, 1.0, -1.0])
def test_long_memory_is_ballistic(k: float | None) -> None:
    q = LOBES if k is None else pairs(k)
    # first moment per √b, of one pair; of two it doubles, as b does, or cancels
    c = (q.b * q.Delta**2 / (q.Delta - q.delta / 3)).sqrt()
    c = {None: 1.0, 1.0: math.sqrt(2), -1.0: 0.0}[k] * c
    made = ivim.signal(ivim.Intermediate(f=0.3, v=2.0, tau=1e9, D=1e-3), q)
    straight = ivim.Ballistic(f=0.3, v=2.0, D=1e-3)
    equal(made, ivim.signal(straight, mrsim.replace(q, c=c)), 1e-9)


# ---------------------------------------------------------------- intermediate flow


def exponent(tau: float, q: ivim.Acquisition, n: int = 2400) -> Tensor:
    """Integrate the mean square displacement over the gradient waveform."""
    delta, Delta = float(q.delta), float(q.Delta)
    whole = delta + Delta if q.T is None else float(q.T)
    t = (torch.arange(n) + 0.5) * whole / n

    def lobe(start: float) -> Tensor:
        # the share of each interval that the lobe covers
        h = whole / n
        ahead = (t + h / 2).clamp(start, start + delta)
        return (ahead - (t - h / 2).clamp(start, start + delta)) / h

    g = lobe(0) - lobe(Delta)
    if q.k is not None:
        start = whole - Delta - delta
        g = g + float(q.k) * (lobe(start) - lobe(start + Delta))
    s = (t[:, None] - t).abs() / tau
    moved = tau**2 * (s - 1 + torch.exp(-s))
    integral = -(g @ moved @ g) * (whole / n) ** 2 / 2
    lobes = 1 if q.T is None else 2
    return integral / (lobes * delta**2 * (Delta - delta / 3))


@pytest.mark.parametrize("tau", [0.004, 0.03, 0.2, 3.0])
@pytest.mark.parametrize("q", [LOBES, pairs(1.0), pairs(-1.0)])
def test_memory_is_the_integral_over_the_waveform(
    tau: float, q: ivim.Acquisition
) -> None:
    wanted = exponent(tau, q)
    size = max(float(wanted), 1e-4)
    assert float(memory(torch.tensor(tau), q)) == pytest.approx(
        float(wanted), abs=2e-3 * size
    )


@given(tau=log_uniform(1e-4, 50), k=st.sampled_from([None, 1.0, -1.0]))
def test_memory_is_smooth_in_tau(tau: float, k: float | None) -> None:
    q = LOBES if k is None else pairs(k)
    x = torch.tensor(math.log(tau))

    def f(x: Tensor) -> Tensor:
        return memory(x.exp(), q).log()

    step = 1e-3
    ahead, here, behind = (float(f(x + s)) for s in (step, 0, -step))
    slope, bend = float(jacfwd(f)(x)), float(hessian(f)(x))
    assert slope == pytest.approx((ahead - behind) / (2 * step), abs=1e-5)
    assert bend == pytest.approx((ahead - 2 * here + behind) / step**2, abs=1e-4)
    assert 0 <= float(f(x).exp()) <= tau
    assert -1e-9 <= slope <= 1 + 1e-9 or k == -1


def test_voxels_with_their_own_acquisition() -> None:
    voxels = ivim.Biexp(f=[0.1, 0.2], Dp=[0.05, 0.06], D=[1e-3, 2e-3])
    b = torch.tensor([B, [2 * b for b in B]])
    made = vmap(ivim.signal)(voxels, ivim.Acquisition(b=b))
    second = ivim.Biexp(f=0.2, Dp=0.06, D=2e-3)
    equal(made[1], ivim.signal(second, ivim.Acquisition(b=b[1])))


# --------------------------------------------------------------------- directions


def test_tensor_signal_turns_with_tissue_and_gradients() -> None:
    g = torch.nn.functional.normalize(torch.randn(20, 3, generator=seeded()), dim=-1)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=seeded()))[0]
    m = torch.tensor([[1.3, 0.1, -0.2], [0.1, 0.9, 0.05], [-0.2, 0.05, 0.7]]) * 1e-3

    def six(m: Tensor) -> Tensor:
        order = [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)]
        return torch.stack([m[i] for i in order])

    def at(m: Tensor, g: Tensor) -> Tensor:
        q = ivim.Acquisition(b=torch.full((20,), 700.0), bvec=g)
        return ivim.signal(ivim.DTI(f=0.1, Dp=0.03, D=six(m)), q)

    equal(at(m, g), at(turn @ m @ turn.T, g @ turn.T))


def test_spherical_mean_of_uneven_directions() -> None:
    g = torch.nn.functional.normalize(torch.randn(30, 3, generator=seeded()).abs())
    g = torch.cat([torch.zeros(2, 3), g, g.flip(0)])
    b = torch.cat([torch.zeros(2), torch.full((30,), 995.0), torch.full((30,), 2000.0)])
    shells = ivim.shells(b, g)
    equal(shells.b, torch.tensor([0.0, 995.0, 2000.0]), 1e-9)
    equal(shells.weights.sum(-1), torch.ones(3))
    x, y, z = g.unbind(-1)
    quadratic = 2 + 0.3 * x * y - 0.8 * z * z  # its mean over the sphere: 2 - 0.8/3
    made = ivim.spherical_mean(quadratic, shells)
    equal(made, torch.tensor([2.0, 2 - 0.8 / 3, 2 - 0.8 / 3]))
    plain = ivim.spherical_mean(quadratic, ivim.shells(b))
    equal(plain[1:], quadratic[2:].reshape(2, 30).mean(1))


def test_shells_keep_low_b_values_apart() -> None:
    b = torch.tensor([0.0, 5.0, 10.0, 20.0, 1000.0, 0.5, 1003.0])
    assert ivim.shells(b).b.tolist() == [0.25, 5.0, 10.0, 20.0, 1001.5]


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# ------------------------------------------------------------------------- errors

GOOD = ivim.Biexp(f=0.2, Dp=0.05, D=1e-3)


@pytest.mark.parametrize(
    ("params", "q", "words"),
    [
        (mrsim.expand(GOOD, 3), PLAIN, r"f must have shape \(\), got \(3,\); map over"),
        (GOOD, mrsim.expand(PLAIN, 3), r"b must have shape \(sample,\), got \(3, 5\)"),
        (GOOD, ivim.Acquisition(b=B, TE=[0.1, 0.2]), "TE must have shape .* 5 b val"),
        (mrsim.replace(GOOD, T2b=torch.tensor(0.1)), PLAIN, "needs the field 'TE'"),
        (mrsim.replace(GOOD, T1t=torch.tensor(1.0)), PLAIN, "needs the field 'TR'"),
        (ivim.Ballistic(f=0.1, v=2.0, D=1e-3), PLAIN, "needs the field 'c'"),
        (ivim.Intermediate(f=0.1, v=2.0, tau=0.1, D=1e-3), PLAIN, "'delta'"),
        (
            ivim.Intermediate(f=0.1, v=2.0, tau=0.1, D=1e-3),
            mrsim.replace(LOBES, T=torch.tensor(0.1)),
            "needs the field 'k'",
        ),
        (ivim.DTI(f=0.1, Dp=0.02, D=[1e-3] * 6), PLAIN, "needs the field 'bvec'"),
        (ivim.DTI(f=0.1, Dp=0.02, D=1e-3), PLAIN, r"D must have shape \(6,\), got"),
    ],
)
def test_shapes_and_missing_fields(params: object, q: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ivim.signal(params, q)


def test_wrong_types() -> None:
    with pytest.raises(TypeError, match="the parameters come first"):
        ivim.signal(PLAIN, GOOD)
    with pytest.raises(TypeError, match="record of a model"):
        ivim.signal(B, PLAIN)
    with pytest.raises(TypeError, match="bring all records to one dtype"):
        ivim.signal(mrsim.to(GOOD, torch.float32), PLAIN)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (ivim.Acquisition(b=[0.0, 0.5, 1.0]), "largest b is 1; .* units.ms / units.um"),
        (ivim.Acquisition(b=[0.0, 8e8]), r"largest b is 8e\+08; .* units.m\*\*2"),
        (ivim.Acquisition(b=[-5.0, 100.0]), "b must not be negative, got -5"),
        (ivim.Acquisition(b=B, delta=-0.1), "delta must not be negative"),
        (ivim.Acquisition(b=B, delta=0.03, Delta=0.02), "are they swapped"),
        (mrsim.replace(LOBES, T=torch.tensor(0.05)), "at least 2"),
        (ivim.Biexp(f=-0.1, Dp=0.05, D=1e-3), "f must not be negative"),
        (ivim.Biexp(f=20.0, Dp=0.05, D=1e-3), "divide by 100"),
        (ivim.Biexp(f=[0.1, 0.2], Dp=[0.05, -0.05], D=[1e-3, 1e-3]), "Dp must not be"),
        (ivim.DTI(f=0.1, Dp=0.02, D=[-1e-3] * 6), "D must not be negative"),
        (ivim.Biexp(f=0.1, Dp=50.0, D=1.0), "Dp = 50 mm²/s is no diffusivity"),
    ],
)
def test_values(x: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ivim.check(x)


@pytest.mark.filterwarnings("ignore:.*looks like milliseconds:UserWarning")
def test_milliseconds() -> None:
    with pytest.raises(ValueError, match="looks like milliseconds"):
        ivim.check(ivim.Acquisition(b=B, TE=80.0))


def test_good_values_pass_and_stay() -> None:
    for x in (PLAIN, LOBES, pairs(-1.0), GOOD, mrsim.expand(GOOD, 3)):
        assert ivim.check(x) is x
    tensor = [1e-3, 1e-3, 1e-3, -1e-4, -1e-4, 1e-4]
    ivim.check(ivim.DTI(f=0.1, Dp=0.02, D=tensor))
    bad = torch.tensor([0.1, torch.nan])
    ivim.check(ivim.Biexp(f=bad, Dp=torch.ones(2) * 0.05, D=torch.ones(2) * um))
    vmap(lambda q: ivim.signal(GOOD, ivim.check(q)))(mrsim.expand(PLAIN, 2))


def test_long_directions_warn() -> None:
    q = mrsim.replace(PLAIN, bvec=torch.full((5, 3), 0.9))
    with pytest.warns(UserWarning, match="5 directions .* not of length 1"):
        ivim.check(q)
    ivim.check(mrsim.replace(PLAIN, bvec=torch.tensor([[0.0] * 3] + [[0, 0, 1.0]] * 4)))


def test_data_must_fit() -> None:
    ivim.check_data(torch.zeros(7, 5), PLAIN)
    ivim.check_data(torch.full((7, 5), torch.nan), PLAIN)
    with pytest.raises(ValueError, match=r"\(7, 5\); where each voxel has b values of"):
        ivim.check_data(torch.zeros(7, 5), mrsim.expand(PLAIN, 7))
    with pytest.raises(ValueError, match=r"last axis .* 5 samples .* got shape \(5, 7"):
        ivim.check_data(torch.zeros(5, 7), PLAIN)
    late = ivim.Acquisition(b=[50.0, 800.0])
    with pytest.raises(ValueError, match="smallest b is 50"):
        ivim.check_data(torch.zeros(2), late)
    ivim.check_data(torch.zeros(2), late, zero=False)


@pytest.mark.parametrize(
    "call",
    [
        lambda: ivim.shells(torch.zeros(3), torch.zeros(3, 3).T[:2]),
        lambda: ivim.shells(torch.zeros(3, 2)),
        lambda: ivim.spherical_mean(torch.zeros(3), ivim.shells(torch.zeros(4))),
    ],
)
def test_shells_and_data_must_fit(call: object) -> None:
    with pytest.raises(ValueError, match=r"must (have|be).* got"):
        call()


def test_blood_diffuses_as_documented() -> None:
    assert DB == 1.75e-3
    without = ivim.Diffusive(f=1.0, Dstar=0.0, D=0.0)
    equal(ivim.signal(without, PLAIN), torch.exp(-PLAIN.b * DB))
